"""The inversion method that a configuration names."""

from __future__ import annotations

from fpcore.inversion.flow_samplers import FLOW_SAMPLERS, FlowSampler
from fpcore.inversion.methods import Method, method
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from tasks.config import RunConfig


def inversion_method(config: RunConfig) -> Method:
    """The inversion method of a configuration. Raises ValueError for options that do not fit together."""
    return method(
        config.method,
        tolerance=config.tolerance,
        iterations=config.iterations,
        guess=config.guess,
        damping=config.damping,
        anderson=config.anderson,
    )


def flow_sampler(config: RunConfig) -> FlowSampler | None:
    """The sampler of rectified flow that a configuration names; None for Euler steps and for other models' samplers."""
    return config.sampler if config.sampler in FLOW_SAMPLERS else None


def check_model(config: RunConfig, model: Model) -> None:
    """Raise ValueError for a configuration that this model cannot carry out."""
    if config.sampler != "ddim" and (flow_sampler(config) is not None) != model.is_flow:
        kind = "for rectified flow (SD 3, FLUX)" if flow_sampler(config) else "not for rectified flow"
        raise ValueError(f"the sampler {config.sampler} is {kind}, and {model.name} is of the {model.family} family")
    if model.is_flow and config.attention_maps:
        raise ValueError("attention maps are cross-attention's, which SD 3 and FLUX have not: leave attention_maps out")
    if model.is_flow and config.operation == "dehaze" and config.dehaze_variant != "regenerate":
        raise ValueError(
            f"{model.name} dehazes by --method regenerate alone: the others steer a UNet's cross-attention"
        )
    Schedule.from_scheduler(model.scheduler, config.num_inference_steps)
