"""Parts are whole or absent, a stopped run goes on, and what fails does not sink the rest."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep import partitions as module
from geotreeclip.prep.partitions import Partition, run_partitions


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "_WAITS", (0.0,))


def square(payload, folder):
    """Writes a square and leaves a line in a log that counts calls."""
    with (Path(payload["log"])).open("a") as log:
        log.write(f"{payload['number']}\n")
    (folder / "value.txt").write_text(str(payload["number"] ** 2))
    if payload.get("fail_until", 0) > Path(payload["log"]).read_text().split().count(str(payload["number"])):
        raise payload.get("error", DataError("scene 17 is cut short"))
    if payload.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"number": payload["number"]}


def parts(tmp_path, count=4, **special):
    log = str(tmp_path / "log")
    Path(log).touch()
    return [Partition(f"p{i}", {"number": i, "log": log, **special.get(f"p{i}", {})}) for i in range(count)]


def squares(run):
    return {part.key: (part.folder / "value.txt").read_text() for part in run.done}


def calls(tmp_path):
    return sorted((tmp_path / "log").read_text().split())


def go(tmp_path, given, **options):
    return run_partitions(given, square, tmp_path / "state", plan={"a": 1}, progress=False, **options)


def test_parts_come_in_order_and_once(tmp_path):
    first = go(tmp_path, parts(tmp_path))
    assert squares(first) == {"p0": "0", "p1": "1", "p2": "4", "p3": "9"}
    assert [part.report["number"] for part in first.done] == [0, 1, 2, 3]
    second = go(tmp_path, parts(tmp_path))
    assert squares(second) == squares(first)
    assert all(part.resumed for part in second.done)
    assert calls(tmp_path) == ["0", "1", "2", "3"]


def test_processes_give_the_same(tmp_path):
    assert squares(go(tmp_path, parts(tmp_path), workers=2)) == {"p0": "0", "p1": "1", "p2": "4", "p3": "9"}


def test_a_failure_is_tried_again_and_spares_the_rest(tmp_path):
    run = go(tmp_path, parts(tmp_path, p1={"fail_until": 2}, p2={"fail_until": 99}))
    assert list(squares(run)) == ["p0", "p1", "p3"]
    (failure,) = run.failed
    assert (failure.key, failure.attempts) == ("p2", 3)
    assert "cut short" in failure.reason
    assert "cut short" in json.loads((tmp_path / "state/failed.json").read_text())["p2"]
    assert not (tmp_path / "state/parts/p2").exists()
    assert not list((tmp_path / "state/parts").glob(".partial*"))
    assert squares(go(tmp_path, parts(tmp_path)))["p2"] == "4"  # mended: only the failed part is done again
    assert json.loads((tmp_path / "state/failed.json").read_text()) == {}


def test_a_defect_is_reported_with_its_traceback(tmp_path):
    run = go(tmp_path, parts(tmp_path, p0={"fail_until": 9, "error": KeyError("band")}), retries=0)
    assert "Traceback" in run.failed[0].detail
    assert len(run.done) == 3


def test_an_option_that_no_part_can_use_stops_at_once(tmp_path):
    with pytest.raises(ConfigError, match="no such band"):
        go(tmp_path, parts(tmp_path, p0={"fail_until": 9, "error": ConfigError("no such band")}))
    assert calls(tmp_path) == ["0"]


def test_all_failed_raises_with_the_reason(tmp_path):
    run = go(tmp_path, parts(tmp_path, 1, p0={"fail_until": 9}), retries=0)
    with pytest.raises(DataError, match="p0: scene 17"):
        run.raise_if_empty()


def test_another_plan_is_refused_by_name(tmp_path):
    go(tmp_path, parts(tmp_path))
    with pytest.raises(DataError, match="a was 1, now 2"):
        run_partitions(parts(tmp_path), square, tmp_path / "state", plan={"a": 2}, progress=False)


def test_a_killed_process_costs_only_its_part(tmp_path):
    run = go(tmp_path, parts(tmp_path, 6, p2={"kill": True}), workers=2, retries=2)
    assert [part.key for part in run.failed] == ["p2"]
    assert "killed" in run.failed[0].reason
    assert len(run.done) == 5


def test_a_folder_without_its_report_is_not_taken_for_a_part(tmp_path):
    folder = tmp_path / "state/parts/p1"
    folder.mkdir(parents=True)
    (folder / "value.txt").write_text("half")
    assert squares(go(tmp_path, parts(tmp_path)))["p1"] == "1"


def test_two_runs_do_not_meet(tmp_path):
    with module._locked(tmp_path / "state"), pytest.raises(DataError, match="another run"):
        go(tmp_path, parts(tmp_path))


def test_kill_in_the_middle_then_the_same_again(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; import test_partitions as t\n"
        "path = Path(sys.argv[1]); t.go(path, t.parts(path, p2={'kill': True}))"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert squares(go(tmp_path, parts(tmp_path))) == {"p0": "0", "p1": "1", "p2": "4", "p3": "9"}
    assert calls(tmp_path) == ["0", "1", "2", "2", "3"]  # finished parts are kept, the broken one is done again
    assert not list((tmp_path / "state/parts").glob(".partial*"))


def test_an_unwritable_state_is_a_clear_error(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        go(tmp_path, parts(tmp_path))


def test_a_cluster_gives_the_same(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp"
    ) as cluster:
        run = go(
            tmp_path, parts(tmp_path, p1={"fail_until": 2}, p3={"fail_until": 99}), scheduler=cluster.scheduler_address
        )
    assert squares(run) == {"p0": "0", "p1": "1", "p2": "4"}
    assert [part.key for part in run.failed] == ["p3"]


def test_no_scheduler_there_is_a_clear_error(tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(ConfigError, match="scheduler"):
        go(tmp_path, parts(tmp_path), scheduler="nonsense://nowhere")
