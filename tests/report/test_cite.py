"""References: every key that the package names is there, and the file is read as written."""

import sys
from pathlib import Path

import pytest

from pliant import cite
from pliant.experiment import experiments
from pliant.report.stored import bibliography
from tests.report.synthetic import EXPERIMENT, SETUP


@pytest.mark.parametrize("id", list(experiments()))
def test_every_key_of_every_experiment_exists(id: str) -> None:
    experiment = experiments()[id]
    for settings in experiment.tiers.values():
        keys = cite.references_used(experiment, experiment.setup(settings))
        assert cite.bibtex(keys).count("@") >= len(keys) > 0


def test_every_key_of_the_registered_diagnostics_and_interventions_exists() -> None:
    import pliant.optim
    from pliant import interventions
    from pliant.diagnostics import registered

    optimizers = [getattr(pliant.optim, name) for name in pliant.optim.__all__]
    optimizers = [kind for kind in optimizers if getattr(kind, "reference", None)]
    assert len(optimizers) >= 2
    for thing in [*registered(), *interventions.registered(), *optimizers]:
        found = cite.entry(thing.reference)
        assert found.authors
        assert found.title
        assert found.fields["year"].isdigit()


def test_an_experiment_uses_what_it_reproduces_and_what_its_arms_and_diagnostics_are() -> None:
    assert cite.references_used(EXPERIMENT, SETUP) == ["lyle2023", "lyle2024"]


def test_a_study_in_a_file_of_its_own_is_cited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    lines = [
        "from dataclasses import replace",
        "from pliant.experiment import find",
        'EXPERIMENT = replace(find("lyle2023/fig1"), id="mine/cited")',
    ]
    (tmp_path / "a_cited_study.py").write_text("\n".join(lines))
    assert bibliography([str(tmp_path / "a_cited_study.py")]) == bibliography(["lyle2023/fig1"])


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown reference 'lyle20235': did you mean 'lyle2023'"):
        cite.bibtex(["lyle20235"])


def test_entries_come_once_as_they_are_written() -> None:
    made = cite.bibtex(["lyle2024", "lyle2023", "lyle2024"])
    assert made.count("@inproceedings") == 2
    assert made.index("lyle2024,") < made.index("lyle2023,")
    assert list(cite.parse(made)) == ["lyle2024", "lyle2023"]


BIB = r"""
% a comment with @ and { in it
@Article{mueller1999,
  Title = {A {B}ook of {{\"U}bung} \& more},
  author = "M{\"u}ller, J{\'e}r{\^o}me and others von Name",
  year = 1999, journal = {J. of
     Lines}, pages={1--2},
  doi = {10.1/x}
}
@misc{solo2001, author = {Ann Solo}, title = {T}, year = {2001}, eprint = {2001.00001}}
"""


def test_the_parser_reads_braces_quotes_numbers_and_accents() -> None:
    found = cite.parse(BIB)
    entry = found["mueller1999"]
    assert entry.title == "A Book of Übung & more"
    assert entry.authors[0] == "Jérôme Müller"
    assert entry.venue == "J. of Lines, 1999"
    assert entry.link == "https://doi.org/10.1/x"
    assert entry.text.startswith("@Article{")
    assert entry.text.endswith("}")
    assert found["solo2001"].venue == "arXiv:2001.00001, 2001"
    assert found["solo2001"].link == "https://arxiv.org/abs/2001.00001"
    assert found["solo2001"].surnames == ["Solo"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@misc{a, title = {never closed}", "closing brace"),
        ("@misc{a, title = {x}}\n@misc{a, title = {x}}", "a twice"),
        ("@misc{a, title = x # y}", "name = {value}"),
        ("@misc{a, title = {x} garbage}", "name = {value}"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cite.parse(text)


def test_names_in_a_sentence() -> None:
    assert cite.short("lyle2024") == "Lyle et al. 2024"  # the proceedings are of 2025
    assert cite.short("kingma2015") == "Kingma & Ba 2015"
