"""The one configuration of a run: flow parameters, command line and ledger all take it from here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MethodName = Literal[
    "ddim", "fixed-point", "intra-path", "inter-path", "certified", "aidi", "renoise", "renoise-sd",
    "renoise-regularised", "renoise-sd-regularised", "easyinv", "easyinv-sdxl", "spdinv", "ddim-left",
]  # fmt: skip
DehazingMethod = Literal[
    "density", "words-by-place", "density+words", "regenerate", "nti", "nti+fixed-point", "fixed-point", "prior-weighted",
    "even-veil", "dcp",
]  # fmt: skip
TimestepSpacing = Literal["trailing", "leading", "linspace", "log-sigma"]
Sampler = Literal["ddim", "o-belm", "bdia", "edict", "rf-inversion", "rf-solver", "fireflow"]
UNPROJECTED_METHODS = ("spdinv", "renoise-regularised", "renoise-sd-regularised", "ddim-left")
"""Methods that look for no state to be projected: those with a loop of their own, and one that asks about the level it leaves."""
EXACT_SAMPLERS = ("o-belm", "bdia", "edict")
GuidanceMode = Literal["none", "nti", "npi", "direct-inversion"]
HazeWeights = Literal["research", "free"]
Task = Literal["colorize", "inpaint", "super-resolution"]
INVENTING = ("edit", "restore")
"""Operations that put into a photo what no photo said."""
WHERE = (
    "photo_timeout",
    "device",
    "attention",
    "vae_slicing",
    "vae_tiling",
    "cpu_offload",
    "compile",
    "onnx",
    "local_files_only",
)
"""Fields that say where and how something is computed, not what."""


def default_steps(given: dict[str, Any]) -> int:
    """Ten steps suffice a built-in model, whose own spacing contracts alike on all (docs/CONVERGENCE.md).

    Restoration takes eighteen, of which it walks the few up to its noise level: all are certified then, and a photo costs
    fewer evaluations (docs/RESTORATION.md).
    """
    builtin = str(given.get("pretrained_model_name_or_path")).startswith("builtin:")
    if not builtin or given.get("operation") == "edit" or given.get("sampler") != "ddim":
        return 25
    return 18 if given.get("operation") == "restore" else 10


def default_spacing(given: dict[str, Any]) -> TimestepSpacing | None:
    """O-BELM's inverse multiplies errors by (h_N/h_1)², its steps h in σ̃: they must not grow by e a step."""
    return "trailing" if given.get("sampler") in EXACT_SAMPLERS else None


class RunOrigin(BaseModel):
    """Which run computes a row: its own id (time of start in UTC, then four digits) and that of its Prefect flow run."""

    model_config = ConfigDict(frozen=True)

    run_id: str | None = None
    flow_run_id: str | None = None


class RunConfig(BaseModel):
    """What is done to every photo. Two runs with equal configurations share an output; others are refused there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: Literal["dehaze", "edit", "invert", "restore"] = Field(
        "dehaze", description="what to do with the photos"
    )
    task: Task = Field(
        "colorize", description="restoration: what the photos lack: their colours, parts, or fine detail"
    )
    inventing: bool = Field(
        True, description="false: operations that make up what no photo said (edit, restore) are refused"
    )
    pretrained_model_name_or_path: str = Field(
        "builtin:haze", description="builtin:haze, builtin:scenes, a folder in diffusers layout, or a hub id"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    torch_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="the UNet's dtype")
    variant: str | None = Field(None, description="weight files of a hub model, for instance fp16")
    vae_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="the VAE's dtype; many overflow in float16"
    )
    attention: Literal["sdpa", "eager", "sliced"] = Field(
        "sdpa", description="attention backend; sliced needs the least memory"
    )
    vae_slicing: bool = Field(False, description="decode a batch picture by picture")
    vae_tiling: bool = Field(False, description="encode and decode large pictures in tiles")
    cpu_offload: bool = Field(False, description="keep components in main memory except while they compute")
    onnx: bool | None = Field(
        None,
        description="evaluate a built-in model by ONNX Runtime on the processor; none = where it is installed; results "
        "differ by some 4e-7 of the latents",
    )
    compile: bool = Field(
        False, description="compile the UNet with torch.compile: minutes at the start, quicker on long GPU runs"
    )
    local_files_only: bool = Field(False, description="never ask the hub")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    method: MethodName = Field("certified", description="inversion method")
    sampler: Sampler = Field(
        "ddim",
        description="o-belm, bdia, edict: samplers with an exact inverse, for the operation invert; rf-inversion, "
        "rf-solver, fireflow: of rectified flow, to invert and edit with SD 3 and FLUX; no method with any of them",
    )
    num_inference_steps: int = Field(
        default_factory=default_steps,
        ge=1,
        le=1000,
        description="DDIM steps of inversion and regeneration; left out: 10 with a built-in model, 18 to restore; 25 "
        "with others, to edit, and for the other samplers",
    )
    timestep_spacing: TimestepSpacing | None = Field(
        default_factory=default_spacing,
        description="where the steps lie: trailing, leading and linspace are uniform in t, log-sigma in the logarithm of "
        "the noise level; none = the model's own, log-sigma for the built-in models, trailing for exact samplers",
    )
    steps_offset: int | None = Field(
        None, ge=0, description="added to leading timesteps; none = the model's own, 1 for Stable Diffusion 1 and 2"
    )
    guess: Literal["previous", "last", "extrapolated"] | None = Field(
        None, description="initial guess of a step; none = the method's own"
    )
    tolerance: float = Field(1e-3, gt=0, le=1, description="RMS at which a fixed point counts as found")
    iterations: int = Field(10, ge=1, le=100, description="iterations of the fixed-count methods")
    damping: float | None = Field(None, gt=0, le=1, description="step towards f(z); none = full")
    anderson: int | None = Field(None, ge=1, le=3, description="Anderson window; none = off")
    dehaze_variant: DehazingMethod = Field(
        "density", description="method of dehazing; density: take haze off where the map of its density says it is"
    )
    prompt: str | None = Field(None, description="source prompt; dehazing: none = the method's own")
    target_prompt: str | None = Field(None, description="target prompt; dehazing: none = the method's own")
    guidance: GuidanceMode = Field("none", description="how the guidance mismatch is handled when editing")
    guidance_scale: float = Field(
        7.5,
        ge=0,
        le=30,
        description="classifier-free guidance weight w of editing and of the paper's dehazing methods",
    )
    tokens: Literal["refine", "replace", "remove"] = Field(
        "refine", description="editing: how the prompts' tokens are matched; replace is word by word"
    )
    padding: Literal["padding", "position"] = Field(
        "padding",
        description="editing: whose attention a target's padding keeps; position is Prompt-to-Prompt's own code",
    )
    cross_replace: float = Field(0.4, ge=0, le=1, description="editing: share of the steps with the source's attention")
    self_replace: float = Field(0.6, ge=0, le=1, description="editing: the same for self-attention")
    blended_word: str | None = Field(None, description="editing: a word of either prompt, 'cat dog', to blend around")
    blend_start: float = Field(0.2, ge=0, le=1, description="editing: share of the steps before blending starts")
    blend_threshold: float = Field(0.3, ge=0, le=1, description="editing: share of a word map's peak that counts as it")
    amplify: float = Field(2.0, description="editing: weight of the target's blend word")
    reweight: str = Field("", description="editing: weights of other target words, 'snow=2, sky=0.5'")
    mask: tuple[int, ...] | None = Field(None, description="editing: PIE-Bench's runs of pixels that may change")
    masks: bool = Field(True, description="editing: masks, the manifest's or the run's, bound the change")
    scale: Literal[2, 4] = Field(2, description="super-resolution: how many times wider and higher")
    noise_level: float | None = Field(
        None,
        gt=0,
        description="restoration: noise over signal up to which a photo is inverted, less keeps more of a plain "
        "interpolation; none = the task's own",
    )
    colour_start: Literal["likely", "grey"] = Field(
        "likely",
        description="colorize: what is inverted: the photo in likely colours, or grey, for models that know the words for both",
    )
    invention_map: bool = Field(False, description="restoration: keep a map of what was invented, white = much")
    attention_maps: bool = Field(False, description="keep a picture of what each word attends to, or of where haze is")
    white_balance: bool = Field(False, description="dehazing: take the airlight's cast of colour off as well")
    haze_weights: HazeWeights = Field(
        "research",
        description="dehazing: research = weights trained on research photographs as well, nearer the truth; free = on "
        "free photographs alone, for any purpose",
    )
    strength: float = Field(1.0, ge=0, le=1, description="fraction of the edit that is applied")
    mask_folder: str | None = Field(
        None, description="folder of region masks by the photos' names: white is edited, or inpainted"
    )
    depth_folder: str | None = Field(
        None, description="folder of depth maps by the photos' names, white far away, for prior-weighted"
    )
    batch_size: Annotated[int, BeforeValidator(lambda given: 0 if given == "auto" else given)] = Field(
        0, ge=0, le=4096, description="images in flight on the device; 0 or auto = as many as make it quick and fit"
    )
    on_oom: Literal["halve", "fail"] = Field("halve", description="when the device runs out of memory")
    seed: int = Field(0, ge=0, description="seed of everything drawn")
    shard_size: int = Field(64, ge=1, le=100_000, description="photos in one shard: one task, one commit")
    image_format: Literal["same", "jpeg", "png", "webp", "tiff", "heic", "avif"] = Field(
        "same", description="format of the pictures"
    )
    quality: int = Field(92, ge=1, le=100, description="JPEG and WebP quality")
    chroma: Literal["4:4:4", "4:2:0"] = Field("4:4:4", description="JPEG chroma subsampling")
    save_latents: bool = Field(True, description="keep inverted latents in the shards")
    save_steps: bool = Field(True, description="keep per-step loss rows in the shards")
    metadata: Literal["keep", "no-location", "none"] = Field(
        "keep",
        description="metadata of the written pictures: keep, no-location (no GPS, no places), none (colour only)",
    )
    provenance: bool = Field(True, description="write into each picture what was done to it")
    max_pixels: int = Field(200_000_000, ge=1, description="largest photo accepted, in pixels")
    photo_timeout: float = Field(
        600, gt=0, description="seconds that decoding one photo may take, and rendering and encoding it; then it fails"
    )

    @model_validator(mode="after")
    def _fits_the_operation(self) -> RunConfig:
        if self.depth_folder is not None and (self.operation, self.dehaze_variant) != ("dehaze", "prior-weighted"):
            raise ValueError("depth maps are read by --method prior-weighted only: choose it or leave depth_folder out")
        if self.sampler in EXACT_SAMPLERS and self.operation != "invert":
            raise ValueError(
                f"the sampler {self.sampler} inverts only, its latents are no noise to edit from: leave sampler out"
            )
        if self.sampler != "ddim" and self.operation in ("dehaze", "restore"):
            raise ValueError("dehazing and restoring walk DDIM or Euler steps: leave sampler out")
        if self.method in UNPROJECTED_METHODS and self.operation == "restore":
            raise ValueError(f"{self.method} finds no consistent states to restore with: choose another method")
        inpainting = (self.operation, self.task) == ("restore", "inpaint")
        if self.mask_folder is not None and self.operation != "dehaze" and not inpainting:
            raise ValueError("masks bound dehazing or say where to inpaint: leave mask_folder out")
        if not self.inventing and self.operation in INVENTING:
            raise ValueError(
                f"{self.operation} makes up what no photo said, and inventing is false: dehaze, or set inventing"
            )
        return self

    def doing(self, operation: str) -> RunConfig:
        """What was set, for another operation: its own defaults, its own rules. Raises ValueError where they are broken."""
        return RunConfig(**self.model_dump(exclude_unset=True) | {"operation": operation})

    @property
    def needs_model(self) -> bool:
        """Whether a diffusion model is evaluated: by all but dehazing by physics alone or by the dark channel prior."""
        return self.operation != "dehaze" or self.dehaze_variant not in ("density", "even-veil", "dcp")

    def identity(self) -> dict[str, Any]:
        """What decides the results and therefore belongs to the output: all but ``WHERE``."""
        return self.model_dump(mode="json", exclude=set(WHERE))
