"""Agents in MinAtar as an experiment: what it needs, and what its claims compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pliant.cli import main
from pliant.experiment import find
from pliant.papers.miniatures import environment
from pliant.papers.toolbox.minatar import Settings, claims
from pliant.population import Population
from pliant.results import Results
from pliant.rl import Catch, MinAtar
from pliant.run.train import cost


def test_without_the_package_its_games_are_told_in_one_line_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "minatar", None)
    assert main(["run", "toolbox/minatar", "--tier", "laptop", "--seeds", "1", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "MinAtar's games need minatar: pip install 'pliant[minatar]'" in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.parquet"))


def test_games_and_agents_are_told_by_their_names() -> None:
    assert isinstance(environment("catch"), Catch)
    assert environment("seaquest") == MinAtar("seaquest")
    with pytest.raises(ValueError, match="unknown game 'freway': did you mean 'freeway'"):
        environment("freway")
    with pytest.raises(ValueError, match="unknown agent 'c15': did you mean 'c51'"):
        find("toolbox/minatar").setup(Settings(agents=("c15",)))


def test_claims_compare_areas_above_random_actions_and_need_agents_that_learn() -> None:
    def table(returns: list[float], probe: float, seed: int) -> dict[str, np.ndarray]:
        curve = np.array(returns) + 0.01 * seed
        return {
            "step": np.arange(4), "diverged_at": np.full(4, -1), "return": curve,
            "probe_loss": np.array([0.2, np.nan, np.nan, probe + 0.001 * seed]),
        }  # fmt: skip

    settings = Settings(games=("asterix",), agents=("double_dqn",))
    found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for seed in range(5):
        found["asterix_double_dqn_none", seed] = table([1.0, 2.0, 3.0, 4.0 + seed / 10], 0.5, seed)
        found["asterix_double_dqn_layer_norm", seed] = table([1.0, 4.0, 5.0, 6.0], 0.3, seed)
    checked = {claim.text[:10]: claim.check(Results(found)) for claim in claims(settings)}
    assert [one.verdict for one in checked.values()] == ["holds"] * len(checked)
    plain = np.mean([2.0 + seed / 30 for seed in range(5)])
    assert checked["Layer norm"].effect.mean == pytest.approx(np.mean([4 - 2 - s / 30 for s in range(5)]) / plain)
    for seed in range(5):
        found["asterix_double_dqn_none", seed] = table([1.0, 0.8, 0.9, 1.0], 0.5, seed)
    assert claims(settings)[2].check(Results(found)).verdict == "inconclusive"


@pytest.mark.parametrize("period", [1, 2, 7])
def test_an_agents_step_is_timed_while_it_learns(period: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks at every update, a frame takes one tick in `period`, however late learning begins."""
    ticks, step = [0], Population.step

    def counted(*args: Any) -> Any:
        ticks[0] += 1
        return step(*args)

    monkeypatch.setattr(Population, "step", counted)
    monkeypatch.setattr("pliant.run.train.time.perf_counter", lambda: float(ticks[0]))
    settings = Settings(games=("catch",), agents=("double_dqn",), learn_period=period)
    plain = find("toolbox/minatar").setup(settings).arms["catch_double_dqn_none"].trial
    assert plain.begin == 5000  # type: ignore[attr-defined]
    found = cost(plain, [0])
    assert found.seconds == pytest.approx(1 / period)
    assert found.state > found.replay > 100_000 * 50  # images of ten by five
