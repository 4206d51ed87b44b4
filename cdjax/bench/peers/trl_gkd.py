"""TRL's GKD trainer, off-policy: its own training loop, full-vocabulary forward KL (beta 0)."""

import tempfile
from pathlib import Path

import serve
import torch
import with_torch
from datasets import Dataset
from trl.experimental.gkd import GKDConfig, GKDTrainer


def main() -> None:
    stage = serve.Stage()
    request = stage.request
    shape, half = request["shapes"], request["options"].get("dtype") == "bfloat16"
    rows, prompt, length = shape["batch"], shape["prompt"], shape["prompt"] + shape["completion"]
    ids = with_torch.ids(shape["vocab"], rows, length)
    labels = ids.clone()
    labels[:, :prompt] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "prompts": ids[:, :prompt]}
    with tempfile.TemporaryDirectory() as folder:
        settings = GKDConfig(
            output_dir=folder,
            per_device_train_batch_size=rows,
            max_steps=1000,
            learning_rate=1e-5,
            weight_decay=0.0,
            lmbda=0.0,
            beta=0.0,
            bf16=half,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1000,
            disable_tqdm=True,
            use_cpu=with_torch.DEVICE == "cpu",
        )
        trainer = GKDTrainer(
            model=with_torch.model(request),
            teacher_model=with_torch.model(request),
            args=settings,
            train_dataset=Dataset.from_list([{"row": row} for row in range(rows)]),
            data_collator=lambda rows: batch,
            processing_class=with_torch.tokenizer(shape["vocab"], Path(folder)),
            callbacks=[with_torch.Steps(stage)],
        )
        trainer.train()


main()
