"""The table that ships with tuner, and the experiment on it."""

from __future__ import annotations

from tests.composing import settings
from tuner.composition import compose
from tuner.parties import create_engine, decide
from tuner.replay.engine import Replay
from tuner.replay.reading import read_table, shipped


def test_the_demo_fits_its_table() -> None:
    experiment = decide(settings("+experiment=replay_demo"))
    engine = create_engine(experiment)
    assert isinstance(engine, Replay)
    rows = [engine.row(configuration) for configuration in experiment.space.configurations()]
    assert len(rows) == len(engine.table.rows), "a whole grid: nothing that is suggested is missing"
    assert engine.row({}).outcome == "measured"


def test_shipped_tables_go_by_their_names() -> None:
    assert "demo" in shipped()
    assert len(read_table("demo").rows) > 100


def test_the_config_has_the_defaults_of_the_settings() -> None:
    from tuner.engine_settings import ReplaySettings

    shown = compose(["engine=replay", "backend=replay", "engine.table=demo"]).engine
    assert ReplaySettings.model_validate(dict(shown) | {"noise": dict(shown.noise)}) == ReplaySettings(name="replay", table="demo")
