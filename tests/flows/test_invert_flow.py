"""``fixpoint invert`` with the exact sampler."""

from pathlib import Path

from tests.chaos.check_output import check
from tests.flows.test_main_job import fixpoint, rows
from tests.photographs import write_photos

STEPS = 10


def test_the_exact_sampler_gives_photos_back_at_one_evaluation_a_step(tmp_path: Path, prefect_api: str) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 3)
    options = ["--steps", str(STEPS), "--set", "sampler=bdia", "--json"]
    assert fixpoint("invert", str(photos), str(out), *options)[0] == 0
    assert check(str(out)) == []
    for row in rows(out):
        assert row["nfe"] == 2 * STEPS - 1
        assert row["inversion_status"] == "completed"
        assert dict(row["metrics"])["psnr_round_trip"] > 60


def test_it_is_refused_where_a_latent_must_be_noise(tmp_path: Path, prefect_api: str) -> None:
    write_photos(tmp_path / "photos", 1)
    code, _ = fixpoint("dehaze", str(tmp_path / "photos"), str(tmp_path / "out"), "--set", "sampler=o-belm")
    assert code == 2
