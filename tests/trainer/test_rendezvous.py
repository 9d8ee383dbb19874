"""Where ranks meet: one address, keys that nobody else knows, and who is missing is said."""

import socket
import threading
from datetime import timedelta

import psutil
import pytest
from torch.distributed import PrefixStore, TCPStore

from tracestill.trainer import rendezvous
from tracestill.trainer.join_ranks import LAUNCH, free_port, is_loopback
from tracestill.trainer.rendezvous import NotMet, assemble, is_alone, listen


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
    assert any("rank 0 waited at 127.0.0.1" in text and "rank(s) 1 of 2 did not come" in text for text in said)


def test_who_is_missing_is_said():
    port = free_port()
    with pytest.raises(NotMet, match=rf"rank 1 found nobody at 127.0.0.1:{port}, where ranks meet, for 0.3 s: rank 0"):
        assemble(1, 2, 0.3, around(port, ranks=2))
    with pytest.raises(NotMet, match=r"rank 0 waited at .* for 0.3 s: rank\(s\) 1, 2 of 3 did not come"):
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
        assert "listens on all of its interfaces" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "alone"),
    [
        ({"LOCAL_SIZE": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}, True),
        ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "worker-1"}, False),
        ({"WORLD_SIZE": "4", "MASTER_ADDR": "worker-1"}, False),
        ({"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}, True),
        ({"LOCAL_SIZE": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost"}, True),
    ],
)
def test_whether_all_ranks_are_on_this_host(variables, alone):
    assert is_alone(variables) is alone
