"""Processes of our own: what they import, and what is said of their end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from artifacts.worker import Worker, WorkerEnded, WorkerError, ask, command, ending, serving
from tests.strangers import strangers

TOLD = "tests.artifacts.told:main"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of a user's that are called as modules are."""
    return strangers(tmp_path / "here")


def run(folder: Path, *arguments: str, **env: str) -> list[str]:
    """What a process says that was started in `folder`."""
    done = subprocess.run(
        command(TOLD, *arguments), cwd=folder, capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_no_file_of_the_current_folder_is_run(folder: Path) -> None:
    arguments, *path = run(folder, "a b", "{}")
    assert arguments == "['a b', '{}']"
    assert str(folder) not in path and "" not in path


def test_nor_one_beside_the_users_script(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(folder / "draw.py"), raising=False)
    monkeypatch.syspath_prepend(str(folder))
    assert str(folder) not in run(folder.parent)


def test_it_imports_what_this_process_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder.parent / "added"))
    assert run(folder)[1] == str(folder.parent / "added")


def test_the_users_own_variable_holds(folder: Path) -> None:
    assert str(folder.parent / "theirs") in run(folder, PYTHONPATH=str(folder.parent / "theirs"))


def test_a_folder_that_is_gone_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("a folder that is used stays")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = command(TOLD)
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path) and found[0] == sys.executable


# --- jobs and answers ----------------------------------------------------------------------------


def serves(work: str, *arguments: str) -> Worker:
    return Worker(serving(f"tests.artifacts.works:{work}", *arguments))


def test_jobs_events_and_answers_cross_whatever_libraries_print() -> None:
    events: list[object] = []
    with serves("echo", "größe", "{}") as worker:
        for job in ({"text": "größe\n\u2028"}, {"nan": 1e300}):
            assert worker.ask(job, events.append) == [job, ["größe", "{}"]]
    assert events == [{"text": "größe\n\u2028"}, {"nan": 1e300}]


def test_a_job_for_a_process_alone() -> None:
    assert ask("tests.artifacts.works:number", {})["types"] == {"fp32": {"errors": {"sample": 0.0}}}


def test_failures_are_typed_and_the_next_job_is_answered() -> None:
    with serves("fail") as worker:
        with pytest.raises(WorkerError, match="there is no such thing") as usage:
            worker.ask({"usage": 1})
        with pytest.raises(WorkerError, match="ValueError: no") as bug:
            worker.ask({})
    assert (usage.value.exit_code, usage.value.hint, usage.value.trace) == (2, "See: latentc", "")
    assert (bug.value.exit_code, bug.value.hint) == (1, "") and "Traceback" in bug.value.trace


@pytest.mark.parametrize(("work", "said"), [("broken", "vendor"), ("unspeakable", "not JSON serializable")])
def test_work_that_cannot_be_made_or_told_is_a_failure(work: str, said: str) -> None:
    with serves(work) as worker:
        for _ in range(2):
            with pytest.raises(WorkerError, match=said) as caught:
                worker.ask({})
            assert not isinstance(caught.value, WorkerEnded)


def test_an_end_is_told_with_its_last_words() -> None:
    with serves("end") as worker:
        with pytest.raises(WorkerEnded, match=r"(?s)ended with status 3 before it answered\..*\nlast words$"):
            worker.ask({})
        with pytest.raises(WorkerEnded, match="ended with status 3"):
            worker.ask({})


@pytest.mark.skipif(sys.platform == "win32", reason="no signals here")
@pytest.mark.parametrize(("number", "memory"), [(9, True), (11, False)])
def test_memory_is_suspected_only_where_it_was_killed(number: int, memory: bool) -> None:
    with serves("end") as worker, pytest.raises(WorkerEnded) as caught:
        worker.ask({"signal": number})
    assert f"was ended by signal {number} (" in caught.value.message
    assert ("out of memory?" in caught.value.message) == caught.value.out_of_memory == memory


def test_what_ends_the_wait_ends_the_process() -> None:
    class Stopped(Exception):
        pass

    def stop(event: object) -> None:
        raise Stopped

    with pytest.raises(Stopped), serves("sleep") as worker:
        pid = worker.pid
        worker.ask({}, stop)
    assert not psutil.pid_exists(pid)


def test_a_message_reaches_the_job_under_way() -> None:
    with serves("listen") as worker:
        worker.tell("nobody runs yet")
        assert worker.ask({}, lambda event: worker.tell({"stop": 7})) == {"stop": 7}


def test_a_message_that_nobody_asked_for_is_no_job() -> None:
    with serves("echo") as worker:
        worker.ask({})
        worker.tell("hello")
        assert worker.ask({"a": 1}) == [{"a": 1}, []]


def test_a_process_that_is_killed_ends_the_job_under_way() -> None:
    with serves("sleep") as worker, pytest.raises(WorkerEnded):
        worker.ask({}, lambda event: worker.kill())


@pytest.mark.skipif(sys.platform == "win32", reason="no signals here")
def test_an_interrupt_is_left_to_who_asks() -> None:
    with serves("echo") as worker:
        worker.ask({})
        os.kill(worker.pid, 2)
        assert worker.ask({"a": 1}) == [{"a": 1}, []]


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (3, "ended with status 3"),
        (0, "ended with status 0"),
        (137, "ended with status 137"),
        (-9, "was ended by signal 9 (SIGKILL; out of memory?)"),
        (-11, "was ended by signal 11 (SIGSEGV)"),
        (-250, "was ended by signal 250"),
        (0xC0000017, "ended with status 0xC0000017 (out of memory?)"),
        (0xC0000005, "ended with status 0xC0000005"),
    ],
)
def test_an_end_is_called_what_it_was(status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32" and status < 0:
        pytest.skip("no signals here")
    assert ending(status) == said
