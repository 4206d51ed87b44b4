"""TRL's experimental sdft trainer: the teacher's prompt generates, both sides score, full-vocabulary forward KL."""

import tempfile

import serve
import with_torch
from datasets import Dataset
from trl.experimental.sdft import SDFTConfig, SDFTTrainer


def words(ids) -> str:
    return " ".join(f"w{i}" for i in ids)


def main() -> None:
    stage = serve.Stage()
    request = stage.request
    shape, half = request["shapes"], request["options"].get("dtype") == "bfloat16"
    rows, vocab = shape["batch"], shape["vocab"]
    context = words(serve.tokens(vocab, shape["context"], seed=1))
    prompts = [words(row) for row in serve.tokens(vocab, rows, shape["prompt"])]
    with tempfile.TemporaryDirectory() as folder:
        with_torch.model(request).save_pretrained(folder)
        tokenizer = with_torch.tokenizer(vocab, folder)
        settings = SDFTConfig(
            output_dir=folder,
            per_device_train_batch_size=rows,
            num_generations=1,
            max_steps=1000,
            learning_rate=1e-5,
            weight_decay=0.0,
            generate_from_teacher=True,
            distillation_mode="full_logits",
            distillation_alpha=0.0,
            teacher_model_kind="base",
            teacher_prompt_template="{privileged_context} {prompt}",
            max_prompt_length=shape["context"] + shape["prompt"],
            max_completion_length=shape["answer"],
            model_init_kwargs={"dtype": "bfloat16" if half else "float32"},
            bf16=half,
            generation_kwargs={"use_cache": True},
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1000,
            disable_tqdm=True,
            use_cpu=with_torch.DEVICE == "cpu",
        )
        trainer = SDFTTrainer(
            model=folder,
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": prompt, "privileged_context": context} for prompt in prompts]),
            processing_class=tokenizer,
            callbacks=[with_torch.Steps(stage)],
        )
        trainer.train()


main()
