"""What is taken for no secret: ordinary recipes, paths, prose, and the vocabulary of a tool about tokens; and what is
one all the same, although it looks much alike."""

import time
from pathlib import Path

import pytest
import yaml

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards import secret

ROOT = Path(__file__).parents[3]
KEY = "abcd1234efgh5678"
PASSES = [
    {"questions": {"source": "/data/hf_datasets/gsm8k.jsonl"}},
    {"questions": {"source": "hf_internal_testing/hf_datasetscache"}},
    {"student": {"pretrained": "/scratch/hf_checkpoints/SmolLM2"}},
    *({"name": name} for name in ("sk-distil-2024-run1", "sk-learn-baselines-v2-2024", "hf_models12345678")),
    *({"model": name} for name in ("xai-grok-4-fast-reasoning", "pplx-7b-online-chat", "nvapi-nemotron-70b-instruct")),
    {"model": "sk-or-v1-model"},
    *({"path": path} for path in (f"/models/sk-{KEY}/weights", f"sk-{KEY}/weights", f"a/hf_{'a1' * 20}")),
    {"encode": {"system": "Reply as follows. Cookie: a word; solve step by step"}},
    {"encode": {"system": "Authorization: ask the teacher. The bearer of 12345678 parcels is he."}},
    {"encode": {"system": 'Answer as {"secret": "the word", "token": "a1"}; the password: none'}},
    {"sample": {"styles": ["chocolate per cookie: 144 chocolates / 48 cookies = 3 chocolates", "cookie: c=2.50+1x"]}},
    {"arms": {"by_token": {"weighting": {"use": "span"}}, "no_password": {"name": "a1b2c3d4"}}},
    {"kinds": {"step_token": "trace", "secret": "trace", "password": None}},
    {"weights": {"secret": 1.0, "password": 2345}},
    {"step_token": "ки", "answer_token": "####", "good_token": "+", "response_token": "### Response:"},
    {
        "lang_token": "en_XX",
        "wait_token": "Wait",
        "prefix_token": "▁<PRE>",
        "boxed_token": "\\boxed",
        "mid_token": "<m>",
    },
    {"valid_token": "right", "step_token2": ["ки", "step"], "user_token": "User:", "bot_token": "Bot:"},
    {"auth_token_count": "five", "refresh_token_every": "10m", "session_token_limit": 4096, "access_tokens": 12},
    {"authorized": "yes", "authority": "arxiv.org", "password_policy": "strict", "cookies": "chocolate chip"},
    {"secret_name": "x", "secretary": "bob", "credentials": "default", "secret_sauce": "mixing", "pwd": "/work"},
    {"credentials": {"provider": "aws", "profile": "us-east-1", "user": "me"}},
    *({"api_key": value} for value in ("EMPTY", "${OPENAI_API_KEY}", "$OPENAI_API_KEY", "{{ env }}", "<your key>", "")),
    *({"api_key": value} for value in ("not-needed", "OPENAI_API_KEY", "os.environ/OPENAI_API_KEY", "none", None)),
    {"headers": {"Authorization": "Bearer ${OPENAI_API_KEY}"}},
    {"url": "https://${USER}:${PASSWORD}@host/"},
    {"url": "https://<user>:<password>@host/ or https://me:…@host"},
    {"key": "sha256:131ede28aaaa", "cache_key": "da39a3ee5e6b4b0d3255bfef95601890afd80709", "digest_key": "0a" * 32},
    {"answer_key": "finalAnswerNormalizedText", "signature": "question -> reasoning, answer"},
    {"headers": [{"name": "x-request-id", "value": KEY}]},
    {"args": ["--step-token", "ки", "--sort-key", "question", "--token-weights=0.5"]},
]
REFUSED = [
    {"password": "12345678"},
    {"db_password": "20061987"},
    {"api_base": f"https://h/v1?api_key={KEY}"},
    {"api_base": f"https://h/v1?n=1&token={KEY}"},
    {"headers": [f"x-api-key: {KEY}"]},
    {"headers": [{"name": "x-api-key", "value": KEY}]},
    {"args": ["--api-key", KEY]},
    {"cmd": f"vllm --api-key={KEY}"},
    {"cmd": f"vllm --api-key {KEY} --port 1"},
    {"body": f'{{"api_key": "{KEY}"}}'},
    {"api_key": f"<{KEY}>"},
    {"api_key": "letters"},
    {"openai_key": "abcdefghijklmnopqrstuvwx"},
    {"token": "abcdefghijklmnopqrst"},
    {"step_token": KEY},
    {"secret_key": "words-only"},
    {"url": f"https://{KEY}@host/"},
    {"url": f"https://me:{KEY}@host/"},
    {"arms": {"a": {"weighting": {"options": {"api_key": KEY}}}}},
    {"note": f"Cookie: session={KEY}"},
    {"note": f"hf_{'aB3' * 12}"},
    {"note": f"see sk-proj-{KEY}"},
    {"note": f"-----BEGIN PRIVATE KEY-----\n{KEY}\n"},
]
TEXTS = (
    *("cannot read /data/hf_datasets/x.jsonl", "nosuch/hf_datasets/x.yaml", "Each cookie: $2, box 5", "PWD=/work"),
    *("the cost of the pass: $22/week - $20/week", "cost per cookie: 6 cookies/pack * $0.10/cookie = $0.60/pack"),
    *("SORT_KEY=question", "Client(api_key=self.api_key)", "OPENAI_API_KEY=EMPTY tracestill run r.yaml"),
)


@pytest.mark.parametrize("data", PASSES, ids=repr)
def test_what_is_no_secret_passes(data):
    secret.refuse(data, "r.yaml")
    assert secret.mask_data(data) == data


@pytest.mark.parametrize("data", REFUSED, ids=repr)
def test_what_is_one_is_refused_and_masked(data):
    with pytest.raises(InputError) as caught:
        secret.refuse(data, "r.yaml")
    masked = secret.mask_data(data)
    assert secret.MASK in str(masked)
    for hidden in (KEY, "20061987", "12345678", "letters", "abcdefgh"):
        assert hidden not in str(caught.value)
        assert hidden not in str(masked)
    assert "_env" not in str(caught.value), "no key that may not exist is advised"


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_secret_is_not_masked(text):
    assert secret.mask(text) == text


def test_words_that_a_variable_holds_are_masked_as_words_and_only_below_a_sure_name(monkeypatch):
    for name, value in {"SORT_KEY": "question", "XKB_KEY": "train.lr", "AUTH": "kerberos", "SIG": "SIGTERM15"}.items():
        monkeypatch.setenv(name, value)
    text = "unknown key 'questionz', see questions.source; the question is train.lr, kerberos"
    assert secret.mask(text) == text
    monkeypatch.setenv("API_KEY", "digit_sum")
    assert secret.mask("digit_sums, digit_sum.py and my_digit_sum") == "digit_sums, ***.py and my_digit_sum"
    secret.refuse({"questions": {"source": "digit_sum"}}, "r.yaml")
    monkeypatch.setenv("AUTH", KEY)
    assert secret.mask(f"x{KEY}y") == "x***y"
    with pytest.raises(InputError, match="source: holds what an environment variable"):
        secret.refuse({"questions": {"source": f"my_{KEY}"}}, "r.yaml")


@pytest.mark.parametrize("path", [*ROOT.glob("recipes/*.yaml"), *ROOT.glob("docs/*.md"), ROOT / "README.md"], ids=str)
def test_our_own_recipes_and_pages_hold_none(path):
    text = path.read_text(encoding="utf-8")
    assert secret.mask(text) == text
    assert secret.mask_data([text]) == [text]
    if path.suffix == ".yaml":
        secret.refuse(yaml.safe_load(text), path.name)


STRANGE = (
    *(
        "sk-",
        "-sk-",
        "sk-a1",
        "sk-a/",
        "eyJaaaaaa",
        "-eyJaaaaaa",
        "eyJaaaaaa.",
        "bearer ",
        "cookie: a=",
        "authorization: ",
    ),
    *("token=", "ab=", "a.", "--api-key ", "://a:", "hf_", "xai-a", "github_pat_", "AAA=", "-----BEGIN ", 'token: "'),
    *("-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----\n", "\n", "a", "1"),
)


@pytest.mark.parametrize("part", STRANGE, ids=repr)
def test_a_text_four_times_as_long_takes_about_four_times_as_long(part):
    def seconds(size: int) -> float:
        text, best = part * (size // len(part)), float("inf")
        for _ in range(3):
            begin = time.process_time()
            secret.mask(text)
            secret.mask_data(text)
            best = min(best, time.process_time() - begin)
        return best

    assert seconds(32_000) < 10 * max(seconds(8_000), 0.005), "a quadratic search would take 16 times as long"
