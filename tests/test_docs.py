"""The pages of docs/: tables are those that commands print, lines work, and what the site makes itself is right."""

import re
from pathlib import Path

import gallery
import generate
import pytest
import versions
import when
from tables import written

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {path.name: path.read_text() for path in sorted(DOCS.glob("*.md"))}


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if "<!-- end -->" in text])
def test_tables_are_those_of_today(name: str) -> None:
    assert written(PAGES[name]) == PAGES[name], f"docs/{name} is of yesterday: make tables"


def test_what_lies_between_a_command_and_its_end_is_replaced() -> None:
    listed = [name for name, text in PAGES.items() if "<!-- end -->" in text]
    assert listed == ["cures_when.md", "diagnostics.md", "interventions.md"]
    old = "before\n<!-- pliant interventions L2 --format md -->\nyesterday\n<!-- end -->\nafter\n"
    new = written(old)
    assert new.startswith("before\n<!-- pliant interventions L2 --format md -->\n| name")
    assert "| L2" in new
    assert "yesterday" not in new
    assert new.endswith("<!-- end -->\nafter\n")
    assert written(new) == new


def test_docstrings_become_markdown() -> None:
    told = generate.documented(
        "Sum of `x`.\n\nArgs:\n    x: one\n        number.\n    *more: others.\n\n>>> 1 + 1\n2\n\n>>> 3\n3"
    )
    assert told == (
        "Sum of `x`.\n\n**Args**\n\n- `x`: one number.\n- `*more`: others.\n\n```pycon\n>>> 1 + 1\n2\n```\n\n"
        "```pycon\n>>> 3\n3\n```"
    )


def test_recipes_that_pages_show_can_be_made() -> None:
    import pliant.interventions

    names = vars(pliant.interventions)
    for page in ("cures_when.md", "cheatsheet.md"):
        lines = re.findall(r"`([A-Z]\w+\([^`]*\))`", PAGES[page])
        shown = [line for line in lines if line.partition("(")[0] in names]
        assert shown or page != "cures_when.md"
        for line in shown:
            eval(line, dict(names))


def test_callbacks_are_on_the_site_whose_libraries_need_not_be_there() -> None:
    page = generate.integrations()
    for library in ("sb3", "lightning", "transformers"):
        assert f"## {library}.MonitorCallback\n" in page
        assert f"## {library}.RecipeCallback\n" in page
    assert "RecipeCallback(recipe: Chain | Mapping[str, Chain], *, seed: int=0)" in page
    assert "**`build(agent: BaseAlgorithm) -> None`**" in page
    assert "(self" not in page


def test_signatures_are_as_one_would_write_them() -> None:
    from pliant.interventions import L2
    from pliant.nets import CNN

    signature = generate._signature
    assert signature(L2) == "(strength: float, normalisers: bool = False) -> None"
    assert "activation: Activation = ReLU" in signature(CNN)


def test_what_one_writes_oneself_works_as_the_how_to_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import pliant
    from pliant.data import load

    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES["howto.md"], flags=re.DOTALL | re.MULTILINE)
    wrote = [block for block in blocks if re.search(r"^(class|def|np\.savez)\b", block, flags=re.MULTILINE)]
    assert len(wrote) == 6  # data, network, task, cure, diagnostic, experiment
    names: dict[str, object] = {"__name__": "mine"}
    for block in wrote:
        exec(compile(block, "howto.md", "exec", dont_inherit=True), names)
    data = load("mine.npz")
    task = names["Rotated"](num_examples=8, batch_size=4, every=2, num_tasks=2)
    assert (task.examples(data, 0, 1).targets == (task.examples(data, 0, 0).targets + 1) % 8).all()
    model = names["build"](data.x_train.shape[1:], data.num_classes)
    x = torch.rand(4, 1, 8, 8)
    monitor = pliant.Monitor(model, x, every=1, diagnostics=(names["LargestOutput"](),))
    monitor(0)
    assert monitor.latest["largest_output"] == pytest.approx(model(x).detach().abs().max().item(), rel=1e-5)
    assert "fresh/largest_output" in monitor.latest
    keeper = pliant.Chain(names["MyCure"](2.0)).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    expected = 2 * sum(p.detach().abs().sum().item() for p in model.parameters())
    assert keeper.penalty().item() == pytest.approx(expected, rel=1e-5)
    experiment = names["EXPERIMENT"]
    made = experiment.setup(experiment.tiers["smoke"])
    assert list(made.arms) == ["none", "l2"]
    assert made.columns() == ["accuracy", "dead"]


def test_versions_are_those_of_this_environment() -> None:
    import numpy as np
    import torch

    here = versions.here()
    assert here["torch"] == torch.__version__
    assert here["numpy"] == np.__version__
    assert "rich" in here
    assert not {"ruff", "pliant"} & set(here)  # a tool, and what the row is about


def test_the_gallery_has_every_experiment_and_draws_what_is_kept(tmp_path: Path) -> None:
    from pliant.experiment import experiments

    results = tmp_path / "results"
    (results / "lyle2023").mkdir(parents=True)
    (results / "lyle2023" / "fig5").symlink_to(DOCS.parent / "results" / "lyle2023" / "fig5")
    page = gallery.gallery(tmp_path, results)
    assert all(f"({gallery.anchor(id)})=\n\n### {id}\n" in page for id in experiments())
    assert all(f"](#{gallery.anchor(id)})" in page for id in experiments())
    lines = re.findall(r"\$ pliant figure results/lyle2023/fig5/(\S+) --plot (\d) --to figure.pdf", page)
    drawn = sorted(path.name for path in (tmp_path / "gallery").iterdir())
    assert drawn == sorted(f"lyle2023-fig5-{run}-{at}-{kind}.svg" for run, at in lines for kind in ("narrow", "wide"))
    assert "$ pliant run lyle2023/fig1 --tier laptop --seeds 5" in page
    assert "?." not in page
    assert all("\\" not in alt for alt in re.findall(r":alt: (.*)", page))


def test_the_picture_says_what_the_list_says() -> None:
    before, after = when.ROWS[0].evidence.intervals()
    assert f"{before.mean:.2f}, with it {after.mean:.2f} (`lyle2024/swiss_cheese`)" in when.listed()
    assert before.high < after.low
    assert "1.11x, CNN 1.27x" in when.ROWS[0].cost()
