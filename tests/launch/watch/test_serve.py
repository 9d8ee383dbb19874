"""The report on loopback: only for this host's own names, only two addresses, made anew when the run has changed."""

import http.client
import re
import socket
import struct
import threading
import time

import psutil
import pytest
from fake_run import HOSTILE, claim, mini_recipe, run_data_stages, write_train

from tracestill.data_pipeline.base.content import MEMORY
from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.watch import live_report
from tracestill.launch.watch.live_report import LiveReport
from tracestill.launch.watch.serve import LOOPBACK, reloading, served


class Pages:
    text, stamp = "<html><body><p>one</p></body></html>", "a1"

    def token(self):
        return self.stamp

    def page(self):
        return self.text, self.stamp


@pytest.fixture
def pages():
    return Pages()


@pytest.fixture
def address(pages):
    with served(pages, 0) as url:
        yield re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", url)[1]


def ask(port, path="/", host=None, method="GET", **headers):
    connection = http.client.HTTPConnection(LOOPBACK, int(port), timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name in [f"{LOOPBACK}:{port}"] if host is None else host:
        connection.putheader("Host", name)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_the_page_loads_itself_again_when_there_is_another(address, pages):
    answer, body = ask(address)
    assert answer.status == 200
    assert "<p>one</p>" in body
    assert '<script data-token="a1">' in body
    assert body.endswith("</body></html>")
    pages.stamp = "b2"
    assert ask(address, "/token")[1] == "b2"
    answer, body = ask(address, method="HEAD")
    assert (answer.status, body) == (200, "")
    assert int(answer.headers["Content-Length"]) > 100


@pytest.mark.parametrize(
    "host",
    [["evil.example"], ["evil.example:PORT"], ["127.0.0.1"], ["localhost:1"], [], ["127.0.0.1:PORT", "evil.example"]],
)
@pytest.mark.parametrize("path", ["/", "/token"])
def test_a_foreign_name_that_leads_here_is_refused(address, host, path):
    answer, body = ask(address, path, [name.replace("PORT", address) for name in host])
    assert answer.status == 421
    assert "one" not in body
    assert "a1" not in body


def test_both_of_its_own_names_are_known(address):
    assert ask(address, host=[f"localhost:{address}"])[0].status == 200
    assert ask(address, host=[f"LOCALHOST:{address}"])[0].status == 200


@pytest.mark.parametrize(
    "path", ["/recipe.yaml", "/../recipe.yaml", "/%2e%2e/recipe.yaml", "//etc/passwd", "/?x", "/token/", "/index.html"]
)
def test_no_path_reaches_the_disk(address, path):
    assert ask(address, path)[0].status == 404
    assert ask(address, "/", method="POST")[0].status == 501


def test_answers_say_that_nobody_else_may_use_them(address):
    headers = ask(address)[0].headers
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    assert "Python" not in headers["Server"]


def test_it_listens_on_loopback_only_and_a_port_in_use_is_named(address):
    with (
        pytest.raises(InputError, match=f"--port {address}: is in use on this host; choose another"),
        served(Pages(), int(address)),
    ):
        pass
    bound = [each.laddr for each in psutil.Process().net_connections("inet") if each.laddr.port == int(address)]
    assert {each.ip for each in bound} == {LOOPBACK}


def test_the_script_stands_in_a_page_without_a_body_too():
    assert reloading("plain", "t").startswith('plain<script data-token="t">')


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_report_is_made_anew_when_the_run_has_changed_and_not_all_the_time(tmp_path, monkeypatch):
    run, clock = claim(tmp_path / "run", mini_recipe()), Clock()
    report = LiveReport(run.root, clock)
    made = []
    make = LiveReport.make
    monkeypatch.setattr(LiveReport, "make", lambda self: made.append(1) or make(self))
    text, token = report.page()
    assert "<h1>" in text
    assert report.page() == (text, token)
    run_data_stages(run)
    assert report.token() == token, f"not before {live_report.LEAST_SECONDS} s"
    clock.now += live_report.LEAST_SECONDS
    assert report.token() != token
    (run.stage("traces", "sample") / MEMORY).unlink()  # what would be written down again
    before = tree(run.root)
    later, other = report.page()
    assert other != token
    assert "12" in later
    assert tree(run.root) == before, "nothing is written into the run"
    write_train(run, "traces", finished=False)
    before = tree(run.root)
    clock.now += live_report.LEAST_SECONDS
    third, _ = report.page()
    assert "tokens a second" in third
    assert HOSTILE not in third
    assert tree(run.root) == before, "nothing is written into the run"
    assert len(made) == 3
    threads = [threading.Thread(target=report.page) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3


@pytest.mark.parametrize(
    "name", ["sweep.json", "rounds.json", "models/m", "arms/a/train", "arms/a/score/s", "arms/a/harness/h"]
)
def test_everything_that_is_summed_up_makes_another_page(tmp_path, name):
    report = LiveReport(claim(tmp_path / "run", mini_recipe()).root)
    before = report.signature()
    path = report.root / (name if name.endswith(".json") else f"{name}/manifest.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    assert report.signature() != before


def test_a_run_that_is_not_there_or_caught_half_written_gives_a_page_all_the_same(tmp_path):
    clock = Clock()
    report = LiveReport(tmp_path / "<b>", clock)
    text, _ = report.page()
    assert "nothing to report yet" in text
    assert "<b>" not in text
    run = claim(tmp_path / "<b>", mini_recipe())
    run_data_stages(run)
    clock.now += 100
    whole, _ = report.page()
    (run.stage("traces", "sample") / "manifest.json").write_text('{"coun')
    clock.now += 100
    assert report.page()[0] == whole


def test_a_file_that_is_not_as_expected_gives_a_page_once_and_no_traceback(tmp_path, monkeypatch):
    run, clock = claim(tmp_path / "run", mini_recipe()), Clock()
    made = []
    monkeypatch.setattr(live_report, "gather", lambda *given: made.append(1) or {}["arms"])
    report = LiveReport(run.root, clock)
    text, token = report.page()
    assert "not as expected (KeyError)" in text
    clock.now += 100
    assert report.token() == token, "it is not made again and again"
    assert (report.page(), len(made)) == ((text, token), 1)


def test_a_browser_that_breaks_off_says_nothing_in_the_terminal(address, capfd):
    with socket.create_connection((LOOPBACK, int(address))) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
        connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        time.sleep(0.05)
    assert ask(address)[0].status == 200
    time.sleep(0.05)
    assert capfd.readouterr().err == ""


def tree(root):
    return {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
