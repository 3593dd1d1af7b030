"""What ``certified`` promises against what is true, in double precision: each step's bound and the bound on z_T.

    python -m benchmarks.certificate --photos PHOTOS --count 6
    python -m benchmarks.certificate --spacing leading --steps 25

Without --photos: crops of the photographs of scikit-image and scikit-learn. Exit code 1 if more than .1 % of the
certified steps break their bound.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

import numpy as np
from torch import Tensor

from benchmarks.inversion import read_photographs
from fpcore.inversion.convergence import stop_errors
from fpcore.inversion.criteria import rms
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.schedule import Schedule
from fpcore.models.load import load_model

PRECISE = {"tolerance": 1e-6, "norm": "state", "speculative_below": 0.0, "anderson": 3, "max_iterations": 80}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--spacing", default=None, help="left out: the model's own")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--prompt", default="haze")
    chosen = parser.parse_args()
    model = load_model("builtin:haze", device="cpu")
    model = replace(model, unet=model.unet.double())
    pixels = read_photographs(chosen.photos, chosen.count, model.image_size, seed=0)
    z0, words = model.encode(pixels).double(), model.embed([chosen.prompt]).embeddings.double()

    def predict(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        output: Tensor = model.unet(z, t, encoder_hidden_states=words.expand(len(z), -1, -1), return_dict=False)[0]
        return output

    schedule = Schedule.from_scheduler(model.scheduler, chosen.steps, chosen.spacing)
    shipped = method("certified", tolerance=chosen.tolerance)
    run = invert(predict, schedule, z0, shipped, batch_size=chosen.count, keep_trajectory=True)
    stops = stop_errors(predict, schedule, run, precision=1e-8)
    certified = stops["status"] == "converged"
    error = stops["error"] / schedule.signal.numpy()[stops["step"]]  # in the picture's norm, as the bound is
    ratio = (error / stops["bound"])[certified]
    exact = invert(predict, schedule, z0, method("certified", **PRECISE), batch_size=chosen.count)
    apart, promised = rms(run.latents - exact.latents).numpy(), np.array(run.path_bound)
    broken = int((ratio > 1).sum())
    print(
        json.dumps(
            {
                "evaluations": float(np.mean(run.nfe)),
                "status": [status.label for status in run.status],
                "steps": len(certified),
                "certified": int(certified.sum()),
                "broken": broken,
                "error_to_bound": [round(float(q), 3) for q in np.quantile(ratio, [0.05, 0.5, 0.95, 1])]
                if len(ratio)
                else [],
                "z_T_error": [round(float(x), 4) for x in apart],
                "z_T_bound": [round(float(x), 4) for x in promised],
            }
        )
    )
    sys.exit(broken > 0.001 * len(ratio))


if __name__ == "__main__":
    main()
