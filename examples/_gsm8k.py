"""The cells of `gsm8k.ipynb`: the course, from the model to its accuracy before and after."""

from __future__ import annotations

from _cells import INSTALL, Cell, Code, Text

__all__ = ["CELLS"]

CELLS: list[Cell] = [
    Text(
        "title",
        en="""
# GSM8K: teach Qwen2.5-0.5B-Instruct to reason

Get the model, look at what it reads, try the rewards on paper, train, and measure before and after. The settings are
those of the course of February 2025; where we differ, the text says so.

Needed: Dunwu (the next cell installs it) and, for real training, a GPU. On a CPU everything runs too, slowly.
Nobody has yet trained this model with this version of Dunwu, so this page gives no time, no memory and no accuracy.
Change the parameters to try it small: `STEPS = 2`, `LENGTH = 32`, `TEST_ROWS = 8`.

{made}
""",
        zh="""
# GSM8K：教 Qwen2.5-0.5B-Instruct 推理

取模型，看清它读到的到底是什么，先在纸面上试奖励函数，再训练，最后比较训练前后的准确率。
配置沿用 2025 年 2 月那门课程；凡是改动的地方，文中都会说明。

需要：装好 Dunwu（下一格会安装）；真正训练需要一块 GPU，CPU 也能跑通，只是慢。
还没有人用这个版本的 Dunwu 训练过这个模型，所以这里不写耗时、显存和准确率。
想先小试一下，就改参数那一格：`STEPS = 2`、`LENGTH = 32`、`TEST_ROWS = 8`。

{made}
""",
    ),
    INSTALL,
    Code(
        "parameters",
        """
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # a hub name, or a folder
DATA = "openai/gsm8k"  # a hub name, or a folder with train.jsonl and test.jsonl
OUTPUT = "outputs/Qwen-0.5B-GRPO"
STEPS = 1868  # one epoch: 7,473 prompts, 4 a step
LENGTH = 320  # tokens a completion may have; the course had 200
TEST_ROWS = 200  # the whole test has 1,319
LEARNING_RATE = 5e-6
""",
        tags=("parameters",),
    ),
    Text(
        "model",
        en="""
## 1. The model

A name is looked up on the Hugging Face hub, and on ModelScope where the hub cannot be reached. A folder always wins.
To download first, with a bar, checked against the hub's hashes, and going on where it stopped:

```bash
dunwu fetch Qwen/Qwen2.5-0.5B-Instruct --to models/Qwen2.5-0.5B-Instruct
dunwu fetch openai/gsm8k --to data/gsm8k --source modelscope
```

Then `MODEL = "models/Qwen2.5-0.5B-Instruct"` and `DATA = "data/gsm8k"`. ModelScope needs its own package:
`pip install -e '.[modelscope]'` in Dunwu's folder. Behind a mirror, set `HF_ENDPOINT` (for example `https://hf-mirror.com`)
before you start Jupyter.
""",
        zh="""
## 1. 模型

写名字时，先去 Hugging Face 找；连不上就去 ModelScope。写的是本地文件夹，就一定用文件夹。
也可以先下载好（有进度条，按哈希校验，中断后重跑同一条命令即可续传）：

```bash
dunwu fetch Qwen/Qwen2.5-0.5B-Instruct --to models/Qwen2.5-0.5B-Instruct
dunwu fetch openai/gsm8k --to data/gsm8k --source modelscope
```

然后令 `MODEL = "models/Qwen2.5-0.5B-Instruct"`、`DATA = "data/gsm8k"`。用 ModelScope 需要在 Dunwu 的目录里
`pip install -e '.[modelscope]'`。要走镜像，就在启动 Jupyter 之前设置 `HF_ENDPOINT`（例如 `https://hf-mirror.com`）。
""",
    ),
    Code(
        "load",
        """
import logging

from dunwu import (
    GRPOConfig,
    GRPOTrainer,
    SamplingParams,
    build_prompts,
    describe_prompt,
    evaluate,
    get_task,
    load_model,
    load_tokenizer,
    make_engine,
    prompt_rows,
    to_best_device,
)

logging.getLogger("dunwu.rewards").setLevel("WARNING")  # correctness_reward_func tells of every call

tokenizer = load_tokenizer(MODEL)
model = to_best_device(load_model(MODEL))
f"{sum(p.numel() for p in model.parameters()):,} parameters on {model.device}"
""",
    ),
    Text(
        "chat",
        en="""
## 2. Chat with it, and see what it reads

A chat model never sees your message alone. Its *template* wraps every message in marks for the role, and ends with
the mark that says "now the assistant". Below: the text after the template, and the ids the model is given.
Qwen's template also adds a system prompt of its own where you give none.
In a terminal: `dunwu chat MODEL --show-ids`.
""",
        zh="""
## 2. 先聊一句，看看它读到了什么

对话模型看到的从来不是你那一句话本身。*对话模板*会给每条消息加上角色标记，最后再加上“轮到 assistant 说话”的标记。
下面打印模板处理后的文本，以及真正送进模型的 id。你不写 system 消息时，Qwen 的模板还会自己补一条。
在终端里可以用 `dunwu chat MODEL --show-ids`。
""",
    ),
    Code(
        "hello",
        """
(prompt,), _ = build_prompts([{"prompt": [{"role": "user", "content": "What is 3 + 4?"}]}], tokenizer)
greedy = SamplingParams(max_new_tokens=LENGTH, temperature=0.0)
((answer,),) = make_engine(model, tokenizer).generate([prompt], greedy)
print(describe_prompt(prompt, tokenizer), "\\n\\nanswer:", answer.text)
""",
    ),
    Text(
        "data",
        en="""
## 3. The data and the prompt

A row of GSM8K has a question and a worked solution; the number after `####` is the answer. The system prompt asks for
a format, because the rewards must know where the answer stands.
""",
        zh="""
## 3. 数据与提示词

GSM8K 的一行是一道题和一份解答，`####` 后面的数就是答案。system 提示词规定了输出格式，
因为奖励函数得知道去哪里找答案。
""",
    ),
    Code(
        "rows",
        """
task = get_task("gsm8k", source=DATA, marking="fixed")
row = task.rows("train")[0]
print(row, "\\n")
for message in task.prompt(row):
    print(f"--- {message['role']}\\n{message['content']}")
""",
    ),
    Text(
        "rewards",
        en="""
## 4. The rewards, before anything is trained

A reward is a function from texts to numbers. You can try it on texts that you write yourself, and you should: most
runs that never learn have a reward that never pays. Here are the course's five as printed (`tutorial`) and the
repaired ones (`fixed`), on five answers to row 0.
""",
        zh="""
## 4. 训练之前，先试奖励函数

奖励函数就是“文本进、数字出”。它完全可以在你自己写的文本上试，也应该先试：那些怎么训都不动的任务，
多半是奖励从来没有发出去过。下面把课程里的五个奖励（`tutorial`，原样）和修好的几个（`fixed`）
用在第 0 行的五种回答上。
""",
    ),
    Code(
        "try-rewards",
        """
gold = row["answer"]
texts = {
    "one line": f"<reasoning>\\nSo it is {gold}.\\n</reasoning>\\n<answer>\\n{gold}\\n</answer>\\n",
    "two lines": f"<reasoning>\\nFirst this.\\nSo it is {gold}.\\n</reasoning>\\n<answer>\\n{gold}\\n</answer>\\n",
    "with .0": f"<reasoning>\\nFirst this.\\nThen that.\\n</reasoning>\\n<answer>\\n{gold}.0\\n</answer>\\n",
    "bare": gold,
    "a sentence": f"The answer is {gold}.",
}
completions = [[{"role": "assistant", "content": text}] for text in texts.values()]
columns = {"prompts": [task.prompt(row)] * len(texts), "answer": [gold] * len(texts)}

print(f"{'':28}", *(f"{name:>10}" for name in texts))
for marking in ("tutorial", "fixed"):
    print(marking)
    for reward in get_task("gsm8k", source=DATA, marking=marking).rewards:
        values = reward(completions=completions, **columns)
        print(f"  {reward.__name__:26}", *(f"{value:10}" for value in values))
""",
    ),
    Text(
        "why-strict",
        en="""
Read the table:

- `strict_format_reward_func` pays one line of reasoning and not two. In its pattern
  `<reasoning>\\n.*?\\n</reasoning>` the dot matches everything **but a line break**, unless `re.DOTALL` is given, and
  it is not. A model that reasons in steps writes several lines, so this reward stays at 0 for the whole run.
- `soft_format_reward_func` has the same hole, and wants the reasoning on the line of its tag. No text can please both
  `soft` and `strict`: of the 4.0 points that are said to be the most, 3.5 can be earned.
- `correctness_reward_func` compares strings: `72.0` is wrong. And without tags it takes the whole text for the
  answer: a bare number, with no reasoning at all, earns 2.5 of them.
- The repaired ones read over line breaks, compare numbers as numbers, and want the tags.

The same from a terminal, on any text: `dunwu rewards gsm8k --text '<answer>72</answer>'`.
We train with the repaired rewards, weighted so that a right answer counts most, as in the course. For the course's
own, write `marking="tutorial"` above and take `reward_weights` out below.
""",
        zh="""
这张表怎么看：

- `strict_format_reward_func` 只给一行推理发奖，两行就是 0。它的模式 `<reasoning>\\n.*?\\n</reasoning>` 里，点号匹配
  **除换行以外**的字符，除非加 `re.DOTALL`，而它没有加。一步一步推理的模型必然写好几行，所以这项奖励整场都是 0。
- `soft_format_reward_func` 有同样的漏洞，还要求推理和标签写在同一行。没有哪段文本能同时满足 `soft` 和 `strict`：
  号称满分 4.0，实际最多 3.5。
- `correctness_reward_func` 比的是字符串：`72.0` 算错；没有标签时又把全文当答案：
  光秃秃一个数、毫无推理，也能拿 2.5 分。
- 修好的几个能跨行，按数值比较，并且必须有标签。

在终端里对任意文本做同样的事：`dunwu rewards gsm8k --text '<answer>72</answer>'`。
下面用修好的奖励训练，并加权，让“答对”像课程里那样占大头。想用课程原来的奖励，就把上面改成 `marking="tutorial"`，
并去掉下面的 `reward_weights`。
""",
    ),
    Text(
        "train",
        en="""
## 5. Train

4 prompts × 16 completions a step, as in the course. Only `LENGTH` differs: this model's median right answer needs 274
tokens, so 200 cuts off most of them, and what is cut off earns nothing. KL with β = 0.04 and one mean a completion
(`loss_type="grpo"`) is what the course's library did then.

To follow the run in a tracker, run `wandb login` (or `swanlab login`) **in a terminal** and add `report_to="wandb"`.
A key has no place in a notebook.
""",
        zh="""
## 5. 训练

和课程一样，每步 4 道题 × 每题 16 个回答。只有 `LENGTH` 不同：这个模型答对时的长度中位数是 274 个 token，
上限 200 会截断一大半，而被截断的回答拿不到分。β = 0.04 的 KL 和“先按回答求平均”（`loss_type="grpo"`）
都是那门课所用的库当时的做法。

想在实验平台上看曲线，请**在终端里**执行 `wandb login`（或 `swanlab login`），再加 `report_to="wandb"`。
密钥不该出现在 notebook 里。
""",
    ),
    Code(
        "trainer",
        """
config = GRPOConfig(
    output_dir=OUTPUT,
    max_steps=STEPS,
    prompts_per_step=4,
    num_generations=16,
    max_prompt_length=256,
    max_completion_length=LENGTH,
    reward_weights=[0.5, 0.5, 1.0, 2.0],  # at most 0.5, 0.5, 0.5 and 2.0 points
    learning_rate=LEARNING_RATE,
    adam_beta2=0.99,
    weight_decay=0.1,
    warmup_steps=0.1,  # below 1: a share of all steps
    lr_scheduler_type="cosine",
    max_grad_norm=0.1,
    loss_type="grpo",
    beta=0.04,
    use_bias_correction_kl=False,
    save_steps=100,
    save_total_limit=2,
)
trainer = GRPOTrainer(
    model,
    reward_funcs=list(task.rewards),
    args=config,
    train_dataset=prompt_rows(task, task.rows("train")),
    processing_class=tokenizer,
    observers="standard",  # metrics.jsonl, rollouts.jsonl, curves.png, and a sentence where something is wrong
)
""",
    ),
    Text(
        "before",
        en="""
First the accuracy *before*. **Strict** wants the number in the tags and the format kept; **lenient** takes the last
number of the text. An untrained model can score near 0 strictly and far higher leniently: it can
already reckon and has not met our format. Give both, or the gain is mostly format. In brackets: a 95 % interval,
half as wide with four times the rows.
""",
        zh="""
先测*训练前*的准确率。**strict** 要求格式正确且数写在标签里；**lenient** 只看文本中最后一个数。
没训练过的模型可能 strict 接近 0，lenient 却高得多：它本来就会算，只是没见过我们的格式。
两个都要报，否则所谓的提升大半只是学会了格式。方括号里是 95 % 置信区间：题数变成四倍，宽度减半。
""",
    ),
    Code(
        "measure-before",
        """
held_out, _ = build_prompts(prompt_rows(task, task.rows("test")[:TEST_ROWS]), tokenizer)
before = evaluate(trainer.engine, task, held_out, samples=1, max_new_tokens=LENGTH)
print(before.table())
""",
    ),
    Code("go", "result = trainer.train()"),
    Text(
        "reading",
        en="""
## 6. What to look at

**Not the loss.** Every completion is used once, so the policy is compared with itself: the ratio is 1, and the
advantages of a group add up to 0. What the course's readers saw, 0.000000 for 69 steps, is this zero plus β × KL,
which is too small to print while the learning rate warms up. The gradient is not 0: see `grad_norm`, and
`step_by_step.ipynb` for the arithmetic.

Look at each reward's own curve, at the length, at `dead groups` (all 16 rewards equal: nothing to learn) and at `cut`
(ran into the limit). Where the figures alone show that something is wrong, the run says so under its cell, and at its
end whether it learned. What it said: `dunwu rollouts outputs/Qwen-0.5B-GRPO` in a terminal. `not_learning.md` is the
page for when nothing rises.
""",
        zh="""
## 6. 该看什么

**不是 loss。** 每个回答只用一次，策略是在和自己比：比值恒为 1，组内优势之和为 0。
课程读者看到的“前 69 步都是 0.000000”就是这个 0 加上 β × KL，而学习率还在预热时 KL 小得印不出来。
梯度并不是 0：看 `grad_norm`，推导见 `step_by_step.ipynb`。

要看的是：每个奖励各自的曲线、长度、`dead groups`（16 个奖励全相等，学不到东西）、`cut`（撞上长度上限的比例）。
只凭数字就能断定的问题，训练时会直接写在那一格下面，结束时还会说到底学没学到。
模型说过的话：在终端里 `dunwu rollouts outputs/Qwen-0.5B-GRPO`。奖励就是不涨时，看 `not_learning.md`。
""",
    ),
    Code("curves", "trainer.plot()"),
    Text(
        "after",
        en="""
## 7. Save, ask again, measure again

`trainer.ask` puts a question to the model as it is now, after the system prompt of the training. The accuracy is of
the same test rows and random numbers as before: where the two intervals overlap, the difference may be chance.
""",
        zh="""
## 7. 保存，再问一次，再测一次

`trainer.ask` 用训练时的 system 提示词问一句现在的模型。准确率用的测试题和随机数都与训练前相同。
两个区间有重叠时，差距可能只是运气；而且一个种子只是一个种子。
""",
    ),
    Code(
        "ask-again",
        """
trainer.save_model()  # model and tokenizer, in OUTPUT
print(trainer.ask(task.rows("test")[0]["question"]))
""",
    ),
    Code(
        "measure-after",
        """
after = evaluate(trainer.engine, task, held_out, samples=1, max_new_tokens=LENGTH)
for kind in ("strict", "lenient", "formatted"):
    print(f"{kind:10} {before.share(kind, greedy=True)!s:>20}  →  {after.share(kind, greedy=True)!s:>20}")
print(f"tokens     {before.mean_tokens(greedy=True):20.1f}  →  {after.mean_tokens(greedy=True):20.1f}")
""",
    ),
    Text(
        "next",
        en="""
The saved folder is an ordinary transformers model. On the whole test:

```bash
dunwu eval outputs/Qwen-0.5B-GRPO --task gsm8k --rows 1319 --samples 1 --max-new-tokens 320
```

All of this as one command is `dunwu train gsm8k` (the recipe has the course's own five rewards and 200 tokens).
A stopped run goes on with `trainer.train(resume_from_checkpoint=True)` or `dunwu train gsm8k --resume`.

Not there yet: an estimate of memory before the start, vLLM, DeepSpeed.
""",
        zh="""
存下来的就是普通的 transformers 模型。在整个测试集上测：

```bash
dunwu eval outputs/Qwen-0.5B-GRPO --task gsm8k --rows 1319 --samples 1 --max-new-tokens 320
```

以上全部浓缩成一条命令就是 `dunwu train gsm8k`（这个配方用的是课程原来的五个奖励和 200 个 token）。
中断后用 `trainer.train(resume_from_checkpoint=True)` 或 `dunwu train gsm8k --resume` 继续。

目前还没有：开始前估算显存、vLLM、DeepSpeed。
""",
    ),
]
