"""The span-weighted loss in Hugging Face's Trainer: a tiny model learns what weighs, and not what does not.

    pip install accelerate && python docs/hf_trainer.py

Every sequence is a question (weight 0), a trace (weight 0.3) and an answer (weight 1), each with a rule of its own.
"""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from tracestill.kernels.loss.hf_trainer import SpanWeightedLoss

QUESTION, TRACE, ANSWER = range(3)
WEIGHTS = torch.tensor([0.0, 0.3, 1.0])


def sequence(seed: int) -> dict[str, torch.Tensor]:
    """8 random tokens, 8 tokens that count up, 8 that repeat: labels are the tokens, weights follow the kinds."""
    g = torch.Generator().manual_seed(seed)
    start, repeated = torch.randint(32, 56, (1,), generator=g), torch.randint(0, 32, (1,), generator=g)
    question = torch.randint(0, 64, (8,), generator=g)
    tokens = torch.cat([question, start + torch.arange(8), repeated.expand(8)])
    kinds = torch.tensor([QUESTION, TRACE, ANSWER]).repeat_interleave(8)
    return {"input_ids": tokens, "labels": tokens, "kinds": kinds.to(torch.uint8), "loss_weights": WEIGHTS[kinds]}


def main(steps: int = 60) -> torch.Tensor:
    """Train; print and return what the loss saw of every kind. The question weighs nothing: it was never looked at."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    loss = SpanWeightedLoss(model, num_kinds=3)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            compute_loss_func=loss,
            train_dataset=[sequence(seed) for seed in range(512)],
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=16,
                learning_rate=1e-2,
                logging_steps=10,
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,  # or the Trainer takes the weights out
                use_cpu=True,
            ),
        )
        trainer.train()
    statistics = loss.take_statistics()
    assert statistics is not None
    for name, (_, _, count, nll, correct, *_) in zip(("question", "trace", "answer"), statistics, strict=True):
        print(f"{name:<9} tokens {int(count):>6}  mean nll {float(nll / count.clamp(min=1)):.3f}  right {int(correct)}")
    return statistics


if __name__ == "__main__":
    main()
