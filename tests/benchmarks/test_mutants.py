"""The mutants stand where they are meant to stand."""

from benchmarks.mutants import MUTANTS, ROOT, misplaced


def test_every_mutant_changes_one_place_and_names_tests_that_are_there() -> None:
    assert len(MUTANTS) >= 60
    assert misplaced() == []
    assert all((ROOT / test.split("::")[0]).is_file() for mutant in MUTANTS for test in mutant.tests)
