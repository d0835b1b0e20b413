"""The server: what it serves, what it refuses, and how it says so."""

from __future__ import annotations

import http.client
import json
import re

import pytest

from geotreeclip.cli import main
from geotreeclip.errors import ConfigError
from geotreeclip.page.server import MAX_TABLE_BYTES, PageServer

JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}


@pytest.fixture
def ask(server):
    """Send a request as it stands, and return status, content (read as JSON if it says so) and headers."""

    def send(method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        told = dict(reply.getheaders())
        return reply.status, json.loads(content) if told["Content-Type"] == "application/json" else content, told

    return send


@pytest.mark.parametrize("path", ["/", "/app.js", "/map.js", "/charts.js", "/style.css", "/icon.svg"])
def test_the_page_is_served_and_needs_no_other_server(ask, path):
    status, content, headers = ask("GET", path)
    assert status == 200
    assert content
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    text = content.decode()
    assert "https://" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "innerHTML" not in text


@pytest.mark.parametrize(
    "path",
    ["/../server.py", "/static/app.js", "/%2e%2e/api.py", "/app.js/", "//etc/passwd", "/..%5cserver.py", "/api"],
)  # fmt: skip
def test_nothing_else_is_served(ask, path):
    status, content, _ = ask("GET", path)
    assert status in (400, 404)
    assert list(content) == ["error"]


def test_questions_are_answered(ask):
    assert ask("GET", "/api/world")[1]["places"] == 12
    place = ask("GET", "/api/place?longitude=15.1&latitude=50")[1]
    status, answer, _ = ask("POST", "/api/classify", json.dumps({"row": place["row"]}), JSON)
    assert status == 200
    assert len(answer["answers"]) == 8
    status, answer, _ = ask(
        "POST", "/api/table?name=a.csv", b"lon,lat\n1,2\n", {"Content-Type": "text/csv; charset=utf-8"}
    )
    assert status == 200
    assert len(answer["rows"]) == 1
    status, example, headers = ask("GET", "/api/example.csv")
    assert example.startswith(b"id,longitude,latitude,elevation")
    assert "example.csv" in headers["Content-Disposition"]
    status, content, headers = ask("HEAD", "/")
    assert (status, content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "message"),
    [
        ("GET", "/api/place?longitude=x&latitude=1", None, {}, 400, "longitude is 'x', not a number"),
        ("GET", "/api/place?" + "&".join(f"a{n}=1" for n in range(50)), None, {}, 400, "the address cannot be read"),
        ("GET", "/api/truth?row=1", None, {}, 400, "place 1 is none of the 12 places"),
        ("GET", "/api/classify", None, {}, 405, "takes POST"),
        ("DELETE", "/", None, {}, 501, "Unsupported method"),
        ("POST", "/", b"{}", JSON, 404, "no such page"),
        ("POST", "/api/classify", b"{", JSON, 400, "no JSON"),
        ("POST", "/api/classify", b"[" * 9000, JSON, 400, "no JSON|give"),
        ("POST", "/api/classify", b"\xff\xfe", JSON, 400, "no JSON"),
        ("POST", "/api/classify", b'{"row": 1e400}', JSON, 400, "row must be"),
        ("POST", "/api/classify", b"{}", CSV, 415, "send application/json"),
        ("POST", "/api/classify", b" " * 10_001, JSON, 413, "too many"),
        ("POST", "/api/table", b"lon,lat\n1,2\n", {"Content-Type": "multipart/form-data"}, 415, "send text/csv"),
        ("POST", "/api/table", b"1" * (MAX_TABLE_BYTES + 1), CSV, 413, "geotreeclip classify"),
        ("POST", "/api/table?name=p.csv", b"lon,lat\n1,x\n", CSV, 400, r"p.csv: row 1 \(line 2\): lat is 'x'"),
        ("POST", "/api/table", None, {**CSV, "Content-Length": "-5"}, 411, "state its length"),
        ("GET", "/", None, {"Host": "evil.example"}, 403, "localhost only"),
    ],
)
def test_errors_are_json_with_a_status(ask, method, path, body, headers, status, message):
    told, content, _ = ask(method, path, body, headers)
    assert told == status
    assert list(content) == ["error"]
    assert re.search(message, content["error"]), content
    assert "\n" not in content["error"]


def test_the_server_lives_on_after_a_broken_request(server, ask):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    connection.putrequest("POST", "/api/table")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"lon")
    connection.close()
    assert ask("GET", "/api/world")[0] == 200


@pytest.mark.parametrize(("error", "printed"), [(BrokenPipeError, False), (TimeoutError, False), (KeyError, True)])
def test_only_faults_of_our_own_are_printed(server, capsys, error, printed):
    try:
        raise error
    except error:
        server.handle_error(None, ("127.0.0.1", 1))
    assert (error.__name__ in capsys.readouterr().err) == printed


def test_a_port_that_is_taken_is_said(server, api):
    port = server.server_address[1]
    with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken; give another with --port"):
        PageServer(api, port=port)
    with pytest.raises(ConfigError, match="--port is 70000"):
        PageServer(api, port=70_000)
    with pytest.raises(ConfigError, match="cannot be had"):
        PageServer(api, host="192.0.2.1", port=0)  # an address for documents; no machine has it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--serve", "--data", "nowhere"], "nowhere: no such directory"),
        (["--serve", "--out", "x"], "give one of them"),
        ([], "--out DIR says where"),
    ],
)
def test_mistakes_at_the_command_line_are_one_line(capsys, arguments, message):
    assert main(["demo", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_model_is_said(capsys, world, tmp_path):
    assert main(["demo", "--serve", "--data", str(world), "--model", str(tmp_path / "none")]) == 2
    assert "no model at" in capsys.readouterr().err
