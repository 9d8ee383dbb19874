"""What counts as a secret, and what does not: names, shapes, texts, recipes."""

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Span
from tracestill.data_pipeline.guards import secret
from tracestill.data_pipeline.sampling.heard import heard
from tracestill.data_pipeline.sampling.teachers import Solution

CANARY = "canary7f3a9c"
SHAPED = {  # by the kind that is to be named
    "an API key": ["sk-proj-a1b2c3d4e5f6g7h8", "sk-ant-api03-a1b2c3d4e5f6g7h8-x_y"],
    "a token of Hugging Face's": ["hf_AbCdEfGhIjKlMnOpQrStUvWxYzabcdEf", "hf_AbC1dEfGhIj2KlMnOp"],
    "a token of GitHub's": ["ghp_a1b2c3d4e5f6g7h8i9j0", "github_pat_11ABCDEFG0abcdef"],
    "a token of GitLab's": ["glpat-a1b2c3d4e5f6g7h8"],
    "a key of AWS's": ["AKIAIOSFODNN7EXAMPLE"],
    "a key of Google's": ["AIza" + "b" * 35],
    "a token of Slack's": ["xoxb-1234567890-abcdef"],
    "a token": ["gsk_a1b2c3d4e5f6g7h8", "nvapi-a1b2c3d4e5f6g7h8"],
    "a JSON web token": ["eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"],
    "a private key": ["-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n-----END OPENSSH PRIVATE KEY-----"],
    "a password in a URL": [f"https://me:{CANARY}@host/repository.git", f"postgres://me:{CANARY}@db/x"],
    "a header with a credential": [f"Authorization: Basic {CANARY}", f"bearer {CANARY}", f"Cookie: session={CANARY}"],
}
NAMES = (
    *("api_key", "apiKey", "x-api-key", "API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "GITHUB_PAT", "my_token", "password"),
    *("DS_CREDENTIALS", "TORCH_PASSWD", "NCCL_JWT", "NCCL_SECRET_THING", "PDSH_SECRET", "SLURM_JWT", "UCX_AUTH_TOKEN"),
    *("TORCH_HUB_TOKEN", "PYTHON_KEYRING_TOKEN", "client_secret", "cookie", "auth", "pwd", "MYTOKEN", "SSHKEY"),
    *("passphrase", "authorization", "AWS_SECRET_ACCESS_KEY", "session_token", "AZURE_CONNECTION_STRING"),
)
HARMLESS_NAMES = (
    *(
        "tokens",
        "max_tokens",
        "control_tokens",
        "tokenizer",
        "tokenizer_path",
        "TOKENIZERS_PARALLELISM",
        "keep",
        "keys",
    ),
    *("num_key_value_heads", "eos_token", "pad_token_id", "mask_token", "keyword", "author", "api_key_env", "monkey"),
    *("NCCL_DEBUG", "OMP_NUM_THREADS", "DS_ENV_FILE", "SSH_AUTH_SOCK", "passes", "key_file", "patience", "compass"),
)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name):
    assert secret.is_secret_name(name)


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_names_of_other_things(name):
    assert not secret.is_secret_name(name)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in SHAPED.items() for text in texts])
def test_shapes(kind, text):
    assert secret.shape_of(text) == kind
    said = secret.mask(f"cannot reach it with {text} now")
    assert text not in said
    assert CANARY not in said
    assert secret.MASK in said
    with pytest.raises(InputError, match=r"options\.where: looks like") as caught:
        secret.refuse({"options": {"where": text}}, "r.yaml")
    assert text not in str(caught.value)


HARMLESS = (
    *("task-1234567890abcdefgh", "risk-adjusted-learning-rate-2", "https://host:8000/v1", "hf_home", "sk-learn"),
    *("models/qwen3-0.6b", "git@github.com:me/x.git", "ssh://git@host/x", "a bearer token", "12:30", "c0ffee" * 7),
)


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_are_left_as_they_are(text):
    assert secret.shape_of(text) is None
    assert secret.mask(text) == text


@pytest.mark.parametrize(
    "data",
    [
        {"options": {"api_key": CANARY}},
        {"options": {"apiKey": CANARY}},
        {"options": {"headers": {"Authorization": f"Token {CANARY}"}}},
        {"options": {"credentials": {"user": "me", "value": CANARY}}},
        {"options": {"credentials": ["me", CANARY]}},
        {"options": {"password": 12345678}},
        {"options": {"token": CANARY}},
        {"options": {"key": f"{CANARY}0123456789"}},
        {"options": {"api_key_env": f"{CANARY}-no-name"}},
        {"options": {"api_key_env": "hf_AbCdEfGhIjKlMnOpQrStUvWxYzabcdEf"}},
        {"options": {f"hf_{CANARY}0123456789abcdefgh": 1}},
    ],
)
def test_recipes_name_the_variable_and_not_the_secret(data):
    with pytest.raises(InputError, match="environment variable") as caught:
        secret.refuse(data, "r.yaml")
    assert str(caught.value).startswith("r.yaml: ")
    assert CANARY not in str(caught.value)
    assert "12345678" not in str(caught.value)
    assert CANARY not in str(secret.mask_data(data))


def test_what_recipes_hold_otherwise_passes_and_is_not_masked():
    data = {
        "options": {
            "api_key_env": "OPENAI_API_KEY",
            "api_key": None,
            "token": "<image>",
            "eos_token": "</s>",
            "max_tokens": 256,
            "key": "question",
            "sort_key": "metadata.level2",
            "group_key": "column12",
            "answer_key": "final_answer",
            "auth": "none",
            "weights": {"key": 0.5, "secret": 1.0},
            "url": "https://api.example.org/v1",
            "tokens": ["<think>", "</think>"],
            "path": "/models/qwen3-0.6b",
        },
        "styles": ["Think aloud. The password of the riddle is yours to find."],
    }
    secret.refuse(data, "r.yaml")
    assert secret.mask_data(data) == data


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"NCCL_JWT={CANARY} and more", "NCCL_JWT=***"),
        (f"[launch.py:145:main] 0 NCCL_PASSWORD={CANARY},x;y z", "[launch.py:145:main] 0 NCCL_PASSWORD=***"),
        (f'{{"api_key": "{CANARY}", "n": 1}}', '{"api_key": "***", "n": 1}'),
        (f"got {{'password': '{CANARY}'}}", "got {'password': '***'}"),
        (f"--set a.api_key={CANARY} is bad", "--set a.api_key=*** is bad"),
        ("https://me:pass@host/x", "https://***@host/x"),
        ("+    token = tokens[i1]", "+    token = tokens[i1]"),
        ("loss 0.5 token 3: 12 tokens/s", "loss 0.5 token 3: 12 tokens/s"),
        ("NCCL_DEBUG=INFO", "NCCL_DEBUG=INFO"),
    ],
)
def test_texts_are_masked_beside_a_name(text, masked):
    assert secret.mask(text) == masked


def test_what_a_variable_of_a_secret_name_holds_is_masked_wherever_it_stands(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "plain-words-only")
    monkeypatch.setenv("DEPLOY_SECRET", "first line\nsecond line of it")
    monkeypatch.setenv("SERVICE_CREDENTIALS", str(tmp_path))
    monkeypatch.setenv("SHORT_TOKEN", "on")
    said = secret.mask(f"it is plain-words-only, then second line of it, on {tmp_path}")
    assert said == f"it is ***, then ***, on {tmp_path}"
    assert secret.mask_data({"note": ["plain-words-only"]}) == {"note": ["***"]}


def test_what_a_teacher_gives_in_place_of_a_solution_is_kept_without_secrets():
    said = heard({"headers": {"Authorization": f"Bearer {CANARY}", "x-api-key": CANARY}, "text": "so"})
    assert (said.reason, CANARY in said.said) == ("not_a_solution", False)
    assert "'text': 'so'" in said.said


@pytest.mark.parametrize(
    "solution",
    [
        Solution("aaa", {"headers": {"x-api-key": CANARY}}),
        Solution({"headers": {"x-api-key": CANARY}}, "a"),
        Solution("aaa", "a", ({"x-api-key": CANARY},)),
    ],
)
def test_what_a_solution_holds_in_place_of_a_text_is_kept_without_secrets(solution):
    assert CANARY not in heard(solution).said


def test_a_trace_that_makes_no_record_is_kept_as_it_is():
    spans = (Span(0, 3, "prose"),)
    assert f"api_key={CANARY}" in heard(Solution(f"api_key={CANARY}", "a", spans)).said


def test_a_private_key_in_a_stream_of_lines_is_left_out():
    lines = ["before\n", "-----BEGIN PRIVATE KEY-----\n", "MIIBVgIBADANBg\n", "-----END PRIVATE KEY-----\n", "after\n"]
    assert list(secret.mask_lines(lines)) == ["before\n", "***\n", "after\n"]


def test_a_private_key_without_an_end_hides_little():
    body = [f"{'ab12CD34' * 8}\n"] * 3
    opens = "host1: -----BEGIN PRIVATE KEY-----\n"
    lines = [opens, f"host1: {body[0]}", "host2: step 3\n", f"host1: {body[0]}", "error: boom\n", "done\n", *body * 60]
    said = list(secret.mask_lines(lines))
    assert said[:4] == ["host1: ***\n", "host2: step 3\n", "error: boom\n", "done\n"]
    assert len(lines) - len(said) < 100
    text = "What is -----BEGIN RSA PRIVATE KEY-----? Say it in words.\nThen go on."
    assert secret.mask(text) == text
    secret.refuse({"encode": {"system": text}}, "r.yaml")
    for broken in ("\n", "\\n", "\n+", "\r\n"):
        said = secret.mask(
            f"a{broken}-----BEGIN RSA PRIVATE KEY-----{broken}{CANARY}{broken}{body[0].strip()}{broken}b c"
        )
        assert said.replace(broken, " ") == "a *** b c"
