"""The recorded mutants still fit the code; `make mutants` applies them and sees their tests fail."""

from pathlib import Path

from tests.mutants.mutants import MUTANTS

ROOT = Path(__file__).parents[2]


def test_what_a_mutant_changes_stands_in_its_file_once() -> None:
    counts = {mutant.name: (ROOT / mutant.file).read_text().count(mutant.old) for mutant in MUTANTS}
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_the_test_that_kills_a_mutant_exists() -> None:
    missing = []
    for mutant in MUTANTS:
        file, _, test = mutant.killer.partition("::")
        path = ROOT / file
        if not path.exists() or f"def {test.partition('[')[0]}" not in path.read_text():
            missing.append(mutant.name)
    assert missing == []
