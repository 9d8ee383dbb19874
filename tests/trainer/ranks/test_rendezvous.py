"""Where ranks meet: one address, keys that nobody else knows, and who is missing is said."""

import errno
import socket
import threading
from datetime import timedelta
from types import SimpleNamespace

import psutil
import pytest
from torch.distributed import PrefixStore, TCPStore

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.hosts import collective
from tracestill.trainer.ranks import rendezvous
from tracestill.trainer.ranks.join_ranks import LAUNCH, free_port, is_alone, is_loopback
from tracestill.trainer.ranks.rendezvous import NotMet, assemble, listen
from tracestill.trainer.timing import bench


def around(port, *, ranks=1, secret="known", address="127.0.0.1", **more):
    return {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), LAUNCH: secret, **more}


def listens(port):
    """Addresses at which this process takes connections on a port."""
    own = psutil.Process().net_connections("tcp")
    return {found.laddr.ip for found in own if found.status == psutil.CONN_LISTEN and found.laddr.port == port}


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1"])
def test_the_store_listens_on_loopback_only(address):
    port = free_port("::1" if address == "::1" else "127.0.0.1")
    store = assemble(0, 1, 5, around(port, address=address))
    assert listens(port) <= {"127.0.0.1", "::1"}
    assert len(listens(port)) == 1
    del store


def test_ranks_meet_and_a_stranger_finds_none_of_their_keys():
    port = free_port()
    found = {}
    ranks = [
        threading.Thread(target=lambda r=r: found.update({r: assemble(r, 3, 20, around(port, ranks=3))}))
        for r in range(3)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    found[1].set("weights", "theirs")
    assert found[0].get("weights") == b"theirs"
    plain = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=5))
    assert not plain.check(["weights"])
    other = PrefixStore(rendezvous.prefix("another"), plain)
    assert not other.check(["weights"])
    other.set("weights", "mine")
    assert found[2].get("weights") == b"theirs"


def test_a_rank_of_another_launch_is_not_taken_for_the_one_that_is_missing():
    port = free_port()
    said = []

    def come(rank, secret):
        with pytest.raises(NotMet) as error:
            assemble(rank, 2, 0.6, around(port, ranks=2, secret=secret))
        said.append(str(error.value))

    first = threading.Thread(target=come, args=(0, "ours"))
    first.start()
    come(1, "theirs")
    first.join()
    assert any("rank 0 gave up waiting at 127.0.0.1" in text and "rank(s) 1 of 2 did not come" in text for text in said)


def test_who_is_missing_is_said():
    port = free_port()
    with pytest.raises(NotMet, match=rf"rank 1 found no rank 0 at 127.0.0.1:{port}, .*after \d\.\d s \(.*timed out"):
        assemble(1, 2, 0.3, around(port, ranks=2))
    with pytest.raises(NotMet, match=r"rank 0 gave up waiting at .*, after 0\.\d s: rank\(s\) 1, 2 of 3 did not come"):
        assemble(0, 3, 0.3, around(port, ranks=3))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = taken.getsockname()[1]
        with pytest.raises(NotMet, match=rf"cannot listen on 127.0.0.1:{here}, where ranks meet .*in use"):
            assemble(0, 1, 0.3, around(here))


def test_a_name_that_leads_to_loopback_here_is_no_place_for_ranks_of_other_hosts(monkeypatch, capsys):
    port = free_port()
    assert listen("localhost", port, alone=False) is None
    with listen("localhost", port, alone=True) as listener:
        assert is_loopback(listener.getsockname()[0])
    assert listen("192.0.2.1", port, alone=True) is None, "no address of this host"
    with pytest.raises(NotMet):
        assemble(0, 2, 0.2, around(port, ranks=2, address=socket.gethostname(), LOCAL_SIZE="1"))
    if is_loopback(socket.gethostbyname(socket.gethostname())):
        assert "listens on all interfaces" in capsys.readouterr().err


LINK_LOCAL = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 0))  # without a scope: no address at all


def named(monkeypatch, *addresses, more=()):
    """From now on ``node1`` has these addresses."""
    plain = socket.getaddrinfo

    def look_up(name, port, *rest, **how):
        if name != "node1":
            return plain(name, port, *rest, **how)
        own = [one for address in addresses for one in plain(address, port, *rest, **how)]
        return [(*entry[:4], (entry[4][0], port, *entry[4][2:])) for entry in (*more, *own)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(rendezvous, "is_reached", lambda address: not address.startswith(("127.0.1.", "fe80")))


@pytest.mark.parametrize(
    ("addresses", "bound"),
    [
        (["127.0.0.5"], "127.0.0.5"),  # 127.0.0.x stand for networks here
        (["127.0.1.1", "127.0.0.5"], "127.0.0.5"),
        (["127.0.0.5", "192.0.2.1", "127.0.0.5"], "127.0.0.5"),
        (["127.0.0.5", "127.0.0.6"], None),  # others may know but one of them
        (["127.0.1.1"], None),
        (["192.0.2.1"], None),
    ],
)
def test_a_name_must_lead_to_exactly_one_address_that_others_reach(monkeypatch, addresses, bound):
    """Where it does not, rank 0 listens everywhere: others might look for it at another address, for half an hour."""
    named(monkeypatch, *addresses, more=[LINK_LOCAL])
    listener = listen("node1", free_port(), alone=False)
    assert (listener and listener.getsockname()[0]) == bound
    if listener:
        listener.close()


def test_a_name_of_two_networks_is_found_by_either(monkeypatch, capsys):
    port = free_port()
    named(monkeypatch, "127.0.0.5", "127.0.0.6")
    environment = around(port, ranks=2, address="node1", LOCAL_SIZE="1")
    monkeypatch.setattr(rendezvous, "TCPStore", lambda name, *rest, **more: TCPStore("127.0.0.1", *rest, **more))
    store = rendezvous.keep_store("node1", port, timedelta(seconds=5), alone=is_alone(environment))
    assert "warning: the meeting point listens on all interfaces: node1" in capsys.readouterr().err
    socket.create_connection(("127.0.0.6", port), timeout=5).close()
    del store


def test_an_address_of_a_kind_that_this_host_lacks_is_passed_over(monkeypatch):
    """With ipv6.disable=1 there are no such sockets; a name may have such an address all the same."""
    plain = socket.socket

    class Sockets(plain):
        def __init__(self, family=-1, *rest, **more):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "not supported")
            super().__init__(family, *rest, **more)

    named(monkeypatch, "127.0.0.5", more=[LINK_LOCAL])
    for alone in (True, False):
        with listen("node1", 0, alone=alone) as listener:
            assert listener.getsockname()[0] == "127.0.0.5", "a link-local address without a scope cannot be bound"
    monkeypatch.setattr(socket, "socket", Sockets)
    with listen("node1", 0, alone=True) as listener:
        assert listener.getsockname()[0] == "127.0.0.5"


def test_a_name_server_that_does_not_answer_is_asked_again(monkeypatch):
    answers = [socket.EAI_AGAIN, socket.EAI_AGAIN]
    plain = socket.getaddrinfo

    def look_up(*arguments, **more):
        if answers:
            raise socket.gaierror(answers.pop(), "try again")
        return plain("127.0.0.1", *arguments[1:], **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(rendezvous, "RETRY_SECONDS", 0.01)
    with listen("node1", 0, alone=True, wait=5) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    for error, wait in ((socket.EAI_NONAME, 600), (socket.EAI_AGAIN, 0.05)):
        answers[:] = [error] * 100
        with pytest.raises(NotMet, match=r"rank 0 cannot listen on node1:7, where ranks meet \(try again\)"):
            assemble(0, 2, wait, around(7, ranks=2, address="node1"))


def test_what_fails_at_once_is_not_said_to_have_taken_long(monkeypatch):
    def fail(*arguments, **more):
        raise RuntimeError("no route to host\nand where in C++")

    monkeypatch.setattr(rendezvous, "TCPStore", fail)
    with pytest.raises(NotMet, match=r"found no rank 0 at .*, after 0\.\d s \(no route to host\)$"):
        assemble(1, 2, 1800, around(free_port(), ranks=2))
    with pytest.raises(NotMet, match=r"rank 0 cannot keep the store at .* \(no route to host\)$"):
        assemble(0, 2, 1800, around(free_port(), ranks=2))


def test_ranks_of_other_modules_say_in_a_line_who_is_missing(tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise NotMet("rank 1 is missing")

    def refuse(*arguments):
        raise InputError("MASTER_PORT: is not set")

    case = tmp_path / "case.json"
    case.write_text('{"recipe": {}}')
    monkeypatch.setattr(bench, "build", lambda *arguments, **more: SimpleNamespace(for_arm=lambda arm: None))
    monkeypatch.setattr(bench, "changed", lambda *arguments, **more: SimpleNamespace(train=None))
    monkeypatch.setattr(bench, "connect", fail)
    monkeypatch.setattr(collective, "join_others", fail)
    assert bench.main(["--run-dir", "run", "--case", str(case), "--out", str(tmp_path)]) == 4
    assert collective.main(["--slots", "1,1"]) == 4
    assert capsys.readouterr().err == "failed: rank 1 is missing\n" * 2
    monkeypatch.setattr(collective, "join_others", refuse)
    assert collective.main(["--slots", "1,1"]) == 2
    assert capsys.readouterr().err == "error: MASTER_PORT: is not set\n"


def of_srun(on_host):
    return {
        **{"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"},
        "SLURM_STEP_TASKS_PER_NODE": on_host,
    }


@pytest.mark.parametrize(
    ("variables", "alone"),
    [
        ({"LOCAL_SIZE": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}, True),
        ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "worker-1"}, False),
        ({"WORLD_SIZE": "4", "MASTER_ADDR": "worker-1"}, False),
        ({"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}, True),
        ({"LOCAL_SIZE": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost"}, True),
        ({**of_srun("4"), "WORLD_SIZE": "4", "MASTER_ADDR": "worker-1"}, True),
        ({**of_srun("2(x2)"), "WORLD_SIZE": "4", "MASTER_ADDR": "worker-1"}, False),
        ({**of_srun("1"), "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "worker-1"}, False),
    ],
)
def test_whether_all_ranks_are_on_this_host(variables, alone):
    assert is_alone(variables) is alone
