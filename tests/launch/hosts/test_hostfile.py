import ipaddress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.hosts.hostfile import Host, choose_hosts, format_hostfile, read_hostfile

HOSTS = [Host("a", (0, 1)), Host("b-2.rack", (0, 1, 2)), Host("fd00::1", (0,))]
THEIRS = pytest.importorskip("deepspeed.launcher.runner")  # DeepSpeed's own reader


def read(tmp_path, text):
    path = tmp_path / "hosts"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_hostfile(path)


def refused(tmp_path, text):
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "hosts"))
    assert "\n" not in message
    return message


def test_hosts_comments_and_blank_lines(tmp_path):
    text = "# two racks\n\n  a slots=2\n\tb-2.rack\tslots=03   # the big one\nfd00::1 slots=1\n10.0.0.7 slots=8"
    found = read(tmp_path, text)
    assert found == [*HOSTS, Host("10.0.0.7", tuple(range(8)))]
    assert dict(THEIRS.fetch_hostfile(str(tmp_path / "hosts"))) == {h.name: len(h.slots) for h in found}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-oProxyCommand=id slots=1", "is no name or address of a host"),
        ("$(id) slots=1", "is no name or address of a host"),
        ("`id` slots=1", "is no name or address of a host"),
        ("a;b slots=1", "is no name or address of a host"),
        ("a,b slots=1", "is no name or address of a host"),
        ("a|b slots=1", "is no name or address of a host"),
        ("exec:id slots=1", "is no name or address of a host"),
        ("^/etc/hosts slots=1", "is no name or address of a host"),
        ("/re/ slots=1", "is no name or address of a host"),
        ("w[1-3] slots=1", "is no name or address of a host"),
        ("root@w slots=1", "is no name or address of a host"),
        ("w:22 slots=1", "is no name or address of a host"),
        ("w- slots=1", "is no name or address of a host"),
        ("w%h slots=1", "is no name or address of a host"),
        ("fe80::1%eth0 slots=1", "is no name or address of a host"),
        ("10.0.0.256 slots=1", "is no name or address of a host"),
        ("w#1 slots=1", "is no name or address of a host"),
        ("w" * 300 + " slots=1", "is no name or address of a host"),
        ("wörker slots=1", "holds a character"),
        ("w\x0bslots=1", "holds a character"),
        ("w slots=٣", "holds a character"),
        ("w slots=0", "slots=0 gives the host nothing to do"),
        ("w slots=000", "slots=0 gives the host nothing to do"),
        ("w slots=-1", "got 'slots=-1' after the host"),
        ("w slots=1x", "got 'slots=1x' after the host"),
        ("w slots=1#x", "got 'slots=1#x' after the host"),
        ("w slots=99999", "more than 1024 ranks"),
        ("w slots=2 max_slots=4", "expected `host slots=N`"),
        ("w slots = 2", "expected `host slots=N`"),
        ("w", "expected `host slots=N`"),
        ("w slots=2\r", "as lines do on Windows"),
        ("# note\rw slots=2", "as lines do on Windows"),
        ("FIRST slots=2", "stands already in line 1"),
    ],
)
def test_each_fault_names_file_and_line(tmp_path, line, said):
    message = refused(tmp_path, f"first slots=1\n{line}\nlast slots=1\n")
    assert message.startswith(f"{tmp_path / 'hosts'}, line 2: ")
    assert said in message


def test_one_address_written_twice(tmp_path):
    assert "stands already in line 1" in refused(tmp_path, "fd00::1 slots=1\nFD00:0:0::1 slots=1\n")


@pytest.mark.parametrize("text", ["", "\n", "# nobody\n"])
def test_no_host(tmp_path, text):
    assert "names no host" in refused(tmp_path, text)


def test_unreadable(tmp_path):
    assert "cannot read the hostfile" in refused(tmp_path, b"a slots=1\n\xff\n")
    with pytest.raises(InputError, match="no such hostfile"):
        read_hostfile(tmp_path / "none")


labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,6}[a-z0-9_])?", fullmatch=True)
names = st.one_of(
    st.lists(labels, min_size=1, max_size=3).map(".".join),
    st.ip_addresses().map(str),
)
pieces = st.one_of(
    names,
    st.sampled_from(
        [
            "slots=",
            " slots=2\n",
            " slots=2",
            "slots=0",
            " ",
            "\t",
            "#",
            "\n",
            "\r",
            "a",
            "-",
            ":",
            "$",
            "2",
            "\x0c",
            "\u2028",
        ]
    ),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=12).map("".join))
def test_what_passes_is_read_alike_by_deepspeed(tmp_path, text):
    try:
        found = read(tmp_path, text)
    except InputError:
        return
    theirs = THEIRS.fetch_hostfile(str(tmp_path / "hosts"))
    assert dict(theirs) == {host.name: len(host.slots) for host in found}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, st.integers(1, 16), min_size=1, max_size=5))
def test_good_hostfiles_pass(tmp_path, hosts):
    def bad(name):
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return all(part.isdecimal() for part in name.split("."))
        return False

    hosts = {name: slots for name, slots in hosts.items() if not bad(name)}
    if hosts:
        found = read(tmp_path, "".join(f"{name} slots={slots}\n" for name, slots in hosts.items()))
        assert [(h.name, h.slots) for h in found] == [(n, tuple(range(s))) for n, s in hosts.items()]
        assert read(tmp_path, format_hostfile(found)) == found


chosen = st.lists(
    st.tuples(
        st.sampled_from(["a", "b-2.rack", "c"]),
        st.lists(st.integers(0, 3).map(str), max_size=3).map(",".join),
        st.sampled_from(["", ":", ":", ":"]),
    ),
    min_size=1,
    max_size=3,
).map(lambda parts: "@".join(name + (colon + slots if slots else "") for name, slots, colon in parts))


@settings(max_examples=300, deadline=None)
@given(chosen, st.booleans())
def test_choices_mean_what_they_mean_to_deepspeed(text, including):
    hosts = HOSTS[:2]
    options = {"include": text} if including else {"exclude": text}
    try:
        found = choose_hosts(hosts, **options)
    except InputError:
        return
    theirs = THEIRS.parse_inclusion_exclusion(
        {h.name: len(h.slots) for h in hosts}, options.get("include", ""), options.get("exclude", "")
    )
    assert [(h.name, list(h.slots)) for h in found] == list(theirs.items())


def test_choices():
    assert choose_hosts(HOSTS) == HOSTS
    assert choose_hosts(HOSTS, include="b-2.rack:2,0@a") == [Host("a", (0, 1)), Host("b-2.rack", (0, 2))]
    assert choose_hosts(HOSTS, exclude="a@b-2.rack:1") == [Host("b-2.rack", (0, 2)), Host("fd00::1", (0,))]
    assert choose_hosts(HOSTS, include="fd00::1") == [Host("fd00::1", (0,))]
    assert choose_hosts(HOSTS, include="fd00::1:0@a:1") == [Host("a", (1,)), Host("fd00::1", (0,))]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"include": "a", "exclude": "a"}, "exclude each other"),
        ({"include": "aa"}, "names no host 'aa'; did you mean 'a'?"),
        ({"include": "$(id)"}, "names no host '$(id)'"),
        ({"include": "a:2"}, "a has slots 0 to 1, not 2"),
        ({"include": "a:x"}, "expected HOST[:SLOT,...]"),
        ({"include": "a:"}, "expected HOST[:SLOT,...]"),
        ({"include": "a:0;id"}, "expected HOST[:SLOT,...]"),
        ({"include": "a@"}, "names no host ''"),
        ({"include": "a:0@a:1"}, "names a twice"),
        ({"exclude": "a@b-2.rack@fd00::1"}, "leaves no host"),
    ],
)
def test_bad_choices(options, said):
    with pytest.raises(InputError) as caught:
        choose_hosts(HOSTS, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
