"""What is written beside the records: whole files, the same from the same records, read back as they were."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

import studies
from studies import plot
from studies.analysis import output, tables, tidy
from studies.runner.records import StorageError


@pytest.fixture
def small(make):
    return [make(method=m, seed=s, accuracy=0.9 + 0.01 * s, epochs=3) for m in ("ste", "bop") for s in range(3)]


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take seconds; tests of other files do without."""
    monkeypatch.setattr(output.figures, "draw", lambda *arguments, **options: [])


def test_publish_writes_every_file_and_leaves_no_other(small, folder):
    out = folder(small)
    written = output.publish(small, out, {"command": "c"})
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.parent.name != "records"}
    assert names == {str(path.relative_to(out)) for path in written}
    figures = {
        f"figures/{name}.{kind}"
        for name in ("accuracy", "curves-by-step", "curves-by-second")
        for kind in ("png", "pdf")
    }
    assert names == {"rows.parquet", "curves.parquet", "table.csv", "manifest.json", *figures}
    assert json.loads((out / "manifest.json").read_text())["command"] == "c"


def test_load_gives_back_the_rows(small, folder, undrawn):
    out = folder(small)
    output.publish(small, out, {})
    pd.testing.assert_frame_equal(studies.load(out), tidy.rows(small))
    pd.testing.assert_frame_equal(studies.load(str(out)), pd.read_parquet(out / "rows.parquet"))


def test_load_reads_records_when_nothing_was_published(small, folder):
    pd.testing.assert_frame_equal(studies.load(folder(small)), tidy.rows(small))


def test_load_sees_records_written_since(small, folder, undrawn):
    out = folder(small[:-1])
    output.publish(small[:-1], out, {})
    folder(small[-1:])
    os.utime(out / "records" / f"{small[-1]['key']}.json", (0, 0))  # copied in with its old date
    pd.testing.assert_frame_equal(studies.load(out), tidy.rows(small))


def test_load_sees_a_record_that_was_replaced(small, folder, make, undrawn):
    failed = make(method="ste", seed=0, status="failed", epochs=3)
    out = folder([failed, *small[1:]])
    output.publish([failed, *small[1:]], out, {})
    folder(small)  # the same cell, tried again: same key, other content
    later = (out / "rows.parquet").stat().st_mtime + 5
    os.utime(out / "records" / f"{failed['key']}.json", (later, later))
    pd.testing.assert_frame_equal(studies.load(out), tidy.rows(small))


def test_records_of_other_plans_are_left_out_of_what_was_published(small, folder, undrawn):
    out = folder(small)
    output.publish(small[:3], out, {})
    os.utime(out / "rows.parquet", (0, 0))  # so that records are read, as after a fresh clone
    pd.testing.assert_frame_equal(studies.load(out), tidy.rows(small[:3]))


def test_stale_marks_survive_in_the_manifest(small, folder, undrawn):
    out = folder(small)
    marked = [{**small[0], "stale": True}, *small[1:]]
    output.publish(marked, out, {})
    os.utime(out / "rows.parquet", (0, 0))
    pd.testing.assert_frame_equal(studies.load(out), tidy.rows(marked))


def test_load_of_a_folder_without_records_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no records in {tmp_path}; run python -m studies.compare --out"):
        studies.load(tmp_path)


def test_a_damaged_manifest_is_named(small, folder):
    out = folder(small)
    (out / "manifest.json").write_text("{")
    with pytest.raises(StorageError, match="manifest.json is damaged"):
        studies.load(out)


def test_a_file_that_cannot_be_written_leaves_the_old_one_whole(small, folder, undrawn, monkeypatch):
    out = folder(small)
    output.publish(small, out, {})
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(StorageError, match="(?s)No space left on device.*python -m studies.plot"):
        output.publish(small[:2], out, {})
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_plot_redraws_the_same_table(small, folder, capsys):
    out = folder(small)
    output.publish(small, out, {"command": "c"})
    before = {path.name: path.read_bytes() for path in (out / "table.csv", out / "manifest.json")}
    (out / "table.csv").unlink()
    assert plot.main([str(out), "--study-title", "Five"]) == 0
    assert {path.name: path.read_bytes() for path in (out / "table.csv", out / "manifest.json")} == before
    shown = capsys.readouterr().out
    assert "W1/A32" in shown and str(out / "figures" / "accuracy.pdf") in shown


def test_plot_sets_a_damaged_record_aside_and_says_so(small, folder, capsys, undrawn):
    out = folder(small)
    path = out / "records" / f"{small[0]['key']}.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 9', 1))
    assert plot.main([str(out)]) == 0
    assert "warning: 1 damaged record set aside" in capsys.readouterr().err
    assert (out / "table.csv").read_text() == tables.csv(tables.summary(tidy.rows(small[1:])))


def test_plot_of_a_wrong_folder_is_one_message_and_exit_2(tmp_path, capsys):
    assert plot.main([str(tmp_path / "nothing")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("no records in ") and told.count("\n") == 1


def test_importing_studies_is_light():
    script = "import sys, studies; print({'torch', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
