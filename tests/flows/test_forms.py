"""The settings that people fill in: in groups, complete, without those of other operations, and without a trace in run.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect import get_client
from prefect.flow_engine import run_flow
from prefect.schedules import Cron
from prefect.utilities.callables import get_call_parameters

from flows.dehaze import dehaze
from flows.forms import DEFAULTS, FORMS, flat, grouped
from flows.operations import FLOWS
from tasks.config import RunConfig
from tests.photographs import write_photos


def test_every_setting_is_in_some_form_and_none_twice_in_one() -> None:
    placed = {name: [field for group in form.values() for field in group.fields] for name, form in FORMS.items()}
    assert all(len(fields) == len(set(fields)) for fields in placed.values())
    assert {field for fields in placed.values() for field in fields} == set(RunConfig.model_fields) - {"operation"}
    assert {name for form in FORMS.values() for name in form}.isdisjoint(RunConfig.model_fields)
    editing = {"tokens", "padding", "cross_replace", "self_replace", "blended_word", "guidance", "mask", "reweight"}
    assert editing.isdisjoint(placed["dehaze"])


@pytest.mark.parametrize("operation", FORMS)
def test_grouping_changes_no_digest(operation: str) -> None:
    """Nothing said, every default said in its group, and the same flat: one configuration."""
    flow = FLOWS[operation]
    default = RunConfig(operation=operation, **DEFAULTS.get(operation, {}))
    said = {name: value for name, value in default.model_dump(mode="json").items() if name != "operation"}
    said = {name: value for name, value in said.items() if any(name in g.fields for g in FORMS[operation].values())}
    assert flat(grouped(operation, said)) == said
    for given in ({}, {"config": grouped(operation, said)}, {"config": said}, {"config": default}):
        parameters = flow.validate_parameters(get_call_parameters(flow.fn, ("in", "out"), given))
        assert parameters["config"].doing(operation).identity() == default.identity()
    with pytest.raises(ValueError, match="no setting of"):
        grouped(operation, {"colour": "blue"})


def test_a_run_with_settings_of_its_own_keeps_the_deployment_s_others(prefect_api: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 1)
    base = {"dehazing": {"dehaze_variant": "dcp"}, "pictures": {"quality": 80}}
    parameters = {"source": str(tmp_path / "in"), "output": str(tmp_path / "out"), "config": base}
    deployed = dehaze.to_deployment(
        "ad-hoc", parameters=parameters | {"execution": {"report": False}}, schedule=Cron("0 2 * * *")
    )
    with get_client(sync_client=True) as client:
        own = {"config": {"pictures": {"provenance": False}}}
        run = client.create_flow_run_from_deployment(deployed.apply(), parameters=own)
        run_flow(dehaze, flow_run=run, parameters=run.parameters)
    found = json.loads((tmp_path / "out" / "run.json").read_text())["configuration"]
    assert (found["dehaze_variant"], found["quality"], found["provenance"]) == ("dcp", 80, False)
    assert not (tmp_path / "out" / "report").exists()
