"""GRPO with TRL on a served pack: a tiny random model learns to make the right calls, on a CPU.

    pip install sandgate torch 'trl==1.16.*'
    sandgate serve git --mode training &
    python examples/train_trl.py http://127.0.0.1:8000 --plot reward.svg

Nothing is downloaded: the model has random weights, and its vocabulary is a handful of whole tool calls, so
that chance finds good ones. `--model NAME` trains a real model that can call tools instead. The reward of
each step goes to stderr as it comes, all of them to stdout at the end, as one line of JSON.
"""

# TRL is not installed where this is type-checked.
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

try:
    import torch
    from datasets import Dataset
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        PrinterCallback,
        Qwen3Config,
        Qwen3ForCausalLM,
        TrainerCallback,
        set_seed,
    )
    from trl import GRPOConfig, GRPOTrainer
except ImportError as missing:
    sys.exit(f"{sys.argv[0]}: {missing}; this example needs: pip install sandgate torch 'trl==1.16.*'")

from gateway.training import EnvError, trl_environment
from gateway.training.plot import Lines

REPOSITORY = {"repo_path": "/workspace"}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("git_add", {**REPOSITORY, "files": ["README.md"]}),
    ("git_add", {**REPOSITORY, "files": ["timetable.py"]}),
    ("git_add", {**REPOSITORY, "files": [".env"]}),
    ("git_commit", {**REPOSITORY, "message": "Correct a typo"}),
    ("git_commit", {**REPOSITORY, "message": "Work in progress"}),
    ("git_checkout", {**REPOSITORY, "branch_name": "main"}),
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ c.function.name }}", '
    '"arguments": {{ c.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANSWERS = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of a token for each of `CALLS`, one for each mark, and one for all other text."""
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<|im_end|>"}
    core = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1}, special["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Split("\x00", "isolated")  # a text between marks is one word
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    written = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in CALLS]
    calls = [f"<tool_call>{call}</tool_call>" for call in written]
    marks = ["<|im_start|>assistant\n", *calls]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in marks])
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = ANSWERS
    return tokenizer


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Return a model of twenty thousand random weights over the tokenizer's vocabulary."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config).to(torch.float32)


def settings(folder: str, options: argparse.Namespace) -> GRPOConfig:
    """Return the trainer's settings: one group of rollouts for each step."""
    tiny = options.model is None
    return GRPOConfig(
        output_dir=folder,
        use_cpu=not torch.cuda.is_available(),
        max_steps=options.steps,
        per_device_train_batch_size=options.generations,
        num_generations=options.generations,
        max_completion_length=6 if tiny else 1024,
        max_tool_calling_iterations=1 if tiny else 8,
        learning_rate=2e-2 if tiny else 1e-6,
        lr_scheduler_type="constant",
        beta=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=not tiny and torch.cuda.is_available(),
        disable_tqdm=True,
        seed=options.seed,
    )


class Progress(TrainerCallback):
    """Shows the reward of each step, and stops where several in a row had nothing more to learn."""

    ENOUGH = 3
    """Steps in a row whose rollouts all had the highest reward."""

    def __init__(self) -> None:
        self.rewards: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Note and show a step."""
        if "reward" not in (logs or {}):
            return
        reward = float(logs["reward"])
        self.rewards.append(reward)
        bar = "#" * round(40 * max(0.0, min(1.0, reward)))
        print(f"step {state.global_step:>3}  reward {reward:5.2f}  {bar}", file=sys.stderr, flush=True)
        if len(self.rewards) >= self.ENOUGH and min(self.rewards[-self.ENOUGH :]) >= 1.0:
            control.should_training_stop = True


def report(rewards: list[float], plot: Path | None) -> None:
    """Print the mean reward of the first and of the last steps, and draw them all."""
    few = max(1, min(5, len(rewards) // 2))
    first, last = (sum(some) / few for some in (rewards[:few], rewards[-few:]))
    print(json.dumps({"first": round(first, 4), "last": round(last, 4), "all": rewards}))
    if plot is not None:
        points = [(float(step), reward) for step, reward in enumerate(rewards, 1)]
        Lines("GRPO on the git pack", "step", "mean reward", {"reward": points}).write(plot)


def main() -> None:
    """Train and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="what `sandgate serve git --mode training` prints")
    parser.add_argument("--model", help="a real model instead of the tiny one")
    parser.add_argument("--task", default="fix-typo")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--generations", type=int, default=8, help="rollouts for each step")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the rewards as SVG")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="You are using 'environment_factory'")
    set_seed(options.seed)
    tokenizer = tiny_tokenizer() if options.model is None else None
    row = {"prompt": [{"role": "user", "content": "Use the tools. "}], "task": options.task, "seed": 1}
    progress = Progress()
    try:
        environment = trl_environment(options.url, pack="git", task=options.task)
    except EnvError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=options.model if tokenizer is None else tiny_model(tokenizer),
            processing_class=tokenizer,
            args=settings(folder, options),
            train_dataset=Dataset.from_list([row] * options.generations),
            environment_factory=environment,
            callbacks=[progress],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    report(progress.rewards, options.plot)


if __name__ == "__main__":
    main()
