"""The local server: who may ask, what is refused, and that only the newest question is answered."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.explore import serving
from support.processes import alive, children
from zeropp.cli.main import main
from zeropp.explore.lane import Lane
from zeropp.explore.server import Explorer, page_files

SLOW = {"do": "simulate", "wanted": {"pp": 16, "chunks": 4, "microbatches": 128}}
QUICK = {"do": "simulate", "wanted": {"pp": 2}}


@pytest.fixture(scope="module")
def server() -> Iterator[Explorer]:
    with serving() as made:
        yield made


def ask(
    server: Explorer, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Status, content and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    sent = {"Content-Type": "application/json"} | (headers or {})
    connection.request("GET" if body is None else "POST", path, body, sent)
    got = connection.getresponse()
    content = got.read()
    connection.close()
    return got.status, content, dict(got.getheaders())


def test_the_page_and_answers_lie_below_the_token(server: Explorer) -> None:
    status, content, headers = ask(server, f"/{server.token}/")
    assert status == 200
    assert content == page_files()["index.html"]
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers
    status, content, _ = ask(server, f"/{server.token}/answer", json.dumps(QUICK))
    assert status == 200
    assert json.loads(content)["main"]["figures"]["pp_size"] == 2
    assert len(server.token) >= 32
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/", "/answer", "/x/", "/x/answer", "//", "/index.html"])
@pytest.mark.parametrize("body", [None, "{}"])
def test_without_the_token_there_is_nothing(server: Explorer, path: str, body: str | None) -> None:
    status, content, _ = ask(server, path, body)
    assert status == 403
    assert content == b"the address lacks its token; use it as printed\n"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost:1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["", "answer"])
def test_other_hosts_and_origins_are_refused(
    server: Explorer, headers: dict[str, str], name: str
) -> None:
    body = json.dumps(QUICK) if name else None
    status, _, got = ask(server, f"/{server.token}/{name}", body, headers)
    assert status == 403
    assert not [header for header in got if header.lower().startswith("access-control")]
    own = {"Origin": f"http://127.0.0.1:{server.server_port}"}
    assert ask(server, f"/{server.token}/{name}", body, own)[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        *("../server.py", "%2e%2e/server.py", "..%2fserver.py", "/etc/passwd", "page.css/"),
        *("./page.css", "....//server.py", "__init__.py", "server.py", "page/page.css"),
    ],
)
def test_nothing_but_the_page_is_served(server: Explorer, name: str) -> None:
    status, content, _ = ask(server, f"/{server.token}/{name}")
    assert status == 404
    assert content == b"there is no such page\n"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": "999999999"}, 413),
        ({"Content-Length": "9" * 400}, 413),
        ({"Content-Length": "-1"}, 411),
        ({"Content-Type": "text/plain"}, 415),
    ],
    ids=str,
)
def test_what_is_too_large_or_of_another_kind_is_refused(
    server: Explorer, headers: dict[str, str], status: int
) -> None:
    assert ask(server, f"/{server.token}/answer", "{}", headers)[0] == status


@pytest.mark.parametrize("body", ["", "{", "[]", "3", '{"do": 7}', "\x00\n{}"])
def test_what_is_no_question_is_told_so(server: Explorer, body: str) -> None:
    status, content, _ = ask(server, f"/{server.token}/answer", body)
    assert status == 200
    assert "refused" in json.loads(content)


def test_only_the_newest_question_of_a_sort_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeropp.explore.lane._PATIENCE_S", 0.1)
    lane, answers = Lane(), dict[int, Any]()

    def put(number: int, question: dict[str, Any], sort: str) -> threading.Thread:
        def asking() -> None:
            answers[number] = lane.ask(sort, json.dumps(question))

        thread = threading.Thread(target=asking)
        thread.start()
        time.sleep(0.15)
        return thread

    try:
        threads = [
            put(number, question, sort)
            for number, (question, sort) in enumerate(
                [(SLOW, "a"), (SLOW, "a"), (QUICK, "b"), (QUICK, "a")]
            )
        ]
        began = time.monotonic()
        for thread in threads:
            thread.join(60)
        assert answers[0] is None  # ended, since it took longer than that
        assert answers[1] is None  # as was this, or it never began
        assert json.loads(answers[2])["main"]["makespan"] > 0
        assert json.loads(answers[3])["main"]["makespan"] > 0
        assert time.monotonic() - began < 20
    finally:
        lane.close()


def test_what_nobody_wants_any_more_is_ended() -> None:
    lane, answers = Lane(), []
    try:
        thread = threading.Thread(target=lambda: answers.append(lane.ask("a", json.dumps(SLOW))))
        thread.start()
        time.sleep(0.5)
        lane.stop("a")
        thread.join(10)
        assert answers == [None]
        assert json.loads(lane.ask("a", json.dumps(QUICK)) or "")["main"]
    finally:
        lane.close()


def test_a_process_that_died_is_one_line_and_another_takes_its_place() -> None:
    lane = Lane()
    try:
        assert lane.ask("a", json.dumps(QUICK)) is not None
        assert lane._process is not None
        lane._process.kill()
        lane._process.wait()
        ended = json.loads(lane.ask("a", json.dumps(QUICK)) or "")
        assert ended["refused"].startswith("it needs more memory than there is")
        assert json.loads(lane.ask("a", json.dumps(QUICK)) or "")["main"]
    finally:
        lane.close()


def test_a_taken_port_and_one_that_is_none_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["explore", "--port", str(port)]) == 2
    line = f"zeropp: port: {port}: address already in use; choose another, or 0 for any\n"
    assert capsys.readouterr().err == line
    for wrong in ("x", "99999", "-1"):
        assert main(["explore", "--port", wrong]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert "port" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--pyodide", "here"], "pyodide is for a site"),
        (["--static", "s", "--open"], "static: a site is not served here"),
        (["--static", "s", "--pyodide", "here"], "pyodide: here has no pyodide.mjs"),
        (["--static", "full"], "static full: it is there already"),
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit_are_one_line(
    options: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["explore", *options]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [(signal.SIGINT, 130, "zeropp: stopped\n"), (signal.SIGKILL, -signal.SIGKILL, "")],
)
def test_whatever_ends_the_server_ends_its_processes(
    sent: signal.Signals, status: int, says: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "zeropp.cli.main", "explore", "--port", "0"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            host, _, token = address.removeprefix("http://").removesuffix("/").partition("/")
            connection = http.client.HTTPConnection(host, timeout=60)
            connection.request(
                "POST", f"/{token}/answer", json.dumps(QUICK), {"Content-Type": "application/json"}
            )
            assert json.loads(connection.getresponse().read())["main"]
            connection.close()
            (answerer,) = children(process.pid)
            os.kill(process.pid, sent)
            _, error = process.communicate(timeout=20)
            assert process.returncode == status
            assert error == says
            late = time.monotonic() + 10
            while alive(answerer):
                assert time.monotonic() < late
                time.sleep(0.05)
        finally:
            process.kill()
