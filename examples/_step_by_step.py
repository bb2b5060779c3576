"""The cells of `step_by_step.ipynb`: the same as `gsm8k.ipynb`, taken apart."""

from __future__ import annotations

from _cells import INSTALL, Cell, Code, Text

__all__ = ["CELLS"]

CELLS: list[Cell] = [
    Text(
        "title",
        en="""
# Step by step: what GRPO does to Qwen2.5-0.5B-Instruct

`gsm8k.ipynb` taken apart: what the template does, why a prompt alone is not enough, what each reward gives, how
rewards become advantages, why the loss is 0 while the model learns; then training, and the saved model asked again.
It runs on a GPU, on a Mac (`mps`, untested) and on a CPU.

{made}
""",
        zh="""
# 拆开看：GRPO 对 Qwen2.5-0.5B-Instruct 做了什么

把 `gsm8k.ipynb` 一层层拆开：对话模板做了什么，为什么光靠提示词不够，每个奖励给多少分，奖励怎样变成优势，
为什么 loss 是 0 模型却在学；然后训练，再问一遍存下来的模型。GPU、Mac（`mps`，未测试）和 CPU 都能跑。

{made}
""",
    ),
    INSTALL,
    Code(
        "parameters",
        """
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # a hub name, or a folder
DATA = "openai/gsm8k"  # a hub name, or a folder with train.jsonl and test.jsonl
OUTPUT = "outputs/Qwen-0.5B-step-by-step"
STEPS = 1868  # one epoch: 7,473 prompts, 4 a step
LENGTH = 200  # tokens a completion may have, as in the tutorial; gsm8k.ipynb says why 320 is better
LEARNING_RATE = 5e-6
QUESTION = "Joy can read 8 pages of a book in 20 minutes. How many hours will it take her to read 120 pages?"  # 5
""",
        tags=("parameters",),
    ),
    Code(
        "load",
        """
import logging

import torch

from dunwu import (
    AlgorithmConfig,
    GRPOConfig,
    GRPOTrainer,
    Observer,
    SamplingParams,
    advantages,
    build_prompts,
    get_task,
    load_model,
    load_tokenizer,
    loss_denominator,
    loss_weights,
    make_engine,
    prompt_rows,
    to_best_device,
    token_loss,
)

logging.getLogger("dunwu.rewards").setLevel("WARNING")  # correctness_reward_func tells of every call

tokenizer = load_tokenizer(MODEL)
model = to_best_device(load_model(MODEL))
""",
    ),
    Text(
        "template",
        en="""
## 1. The template

`tokenize` chooses between text and ids; `add_generation_prompt` appends the mark after which the assistant speaks.
Without that mark the model may continue the *user's* turn: a classic reason for a reward of 0. For training it must
be there, for a finished conversation it must not. (With `tokenize=True`, transformers 5 returns a dict unless told
`return_dict=False`.)
""",
        zh="""
## 1. 对话模板

`tokenize` 决定返回文本还是 id；`add_generation_prompt` 在末尾加上“轮到 assistant”的标记。少了这个标记，
模型可能会替*用户*接着往下说：这是奖励为 0 的经典原因之一。训练时必须加，已经结束的对话则不能加。
（transformers 5 在 `tokenize=True` 时默认返回字典，要 id 列表得写 `return_dict=False`。）
""",
    ),
    Code(
        "template-four-ways",
        """
messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "2 + 3?"}]
for generation in (False, True):
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=generation, return_dict=False)
    print(f"add_generation_prompt={generation}\\n{text!r}\\n{len(ids)} ids: {ids}\\n")
""",
    ),
    Text(
        "prompt-alone",
        en="""
## 2. A first attempt, by prompt alone

The system prompt asks for a format. A small model keeps it sometimes. Special tokens are shown, so that you see
whether it ended by itself: an answer that was cut off has no end mark.
""",
        zh="""
## 2. 先只靠提示词试试

system 提示词要求了格式，小模型只是偶尔照做。下面把特殊 token 也打印出来，好看清它是不是自己停下的：
被截断的回答末尾没有结束标记。
""",
    ),
    Code(
        "ask",
        """
def ask(model, tokenizer, question):
    (prompt,), _ = build_prompts([{"prompt": task.prompt({"question": question})}], tokenizer)
    sampling = SamplingParams(max_new_tokens=LENGTH, temperature=0.0)
    ((completion,),) = make_engine(model, tokenizer).generate([prompt], sampling)
    print(tokenizer.decode(prompt.ids) + "▶" + tokenizer.decode(completion.ids))
    return completion


task = get_task("gsm8k", source=DATA)
first = ask(model, tokenizer, QUESTION)
print(f"\\n{len(first.ids)} tokens, ended by {first.finish_reason}")
""",
    ),
    Text(
        "rewards",
        en="""
## 3. Every reward on one response

The tutorial's five, value for value. The same response twice: its reasoning on one line, then on two. The second
loses `strict_format_reward_func`: in a pattern without `re.DOTALL` the dot does not cross a line break. It can
therefore not teach the format to a model that reasons in steps.
""",
        zh="""
## 3. 拿一条回答试每个奖励

教程里的五个奖励，数值完全一致。同一条回答试两遍：推理先写成一行，再写成两行。第二遍丢了
`strict_format_reward_func`：没有 `re.DOTALL`，点号跨不过换行。所以，一步步推理的模型不可能靠它学会格式。
""",
    ),
    Code(
        "one-response",
        """
one_line = "<reasoning>\\n120 / 8 = 15, 15 * 20 = 300.\\n</reasoning>\\n<answer>\\n5\\n</answer>\\n"
two_lines = one_line.replace(", ", "\\n")
given = {"prompts": [task.prompt({"question": QUESTION})] * 2, "answer": ["5", "5"]}
said = [[{"role": "assistant", "content": text}] for text in (one_line, two_lines)]
scores = {reward.__name__: reward(completions=said, **given) for reward in task.rewards}
for name, (one, two) in scores.items():
    print(f"{name:28}{one:8.3f}{two:8.3f}")
print(f"{'sum':28}{sum(v[0] for v in scores.values()):8.3f}{sum(v[1] for v in scores.values()):8.3f}")
""",
    ),
    Text(
        "advantages",
        en="""
## 4. From rewards to advantages

GRPO has no value network. It samples a *group* of completions for one prompt and compares each with the others:
advantage = (reward − mean) / (standard deviation + 0.0001). The second group below has equal rewards: all advantages
are exactly 0 and the prompt teaches nothing. That is a *dead group*; `frac_reward_zero_std` is their share.
""",
        zh="""
## 4. 从奖励到优势

GRPO 没有价值网络。它对同一道题采样*一组*回答，互相比较：
优势 = (奖励 − 均值) / (标准差 + 0.0001)。下面第二组的奖励全相等：优势全是 0，这道题什么也教不了。
这就是 *dead group*，`frac_reward_zero_std` 记录它们的占比。
""",
    ),
    Code(
        "by-hand",
        """
rewards = torch.tensor([[0.0, 0.5, 2.0, 2.5], [0.5, 0.5, 0.5, 0.5]])
by_hand = (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + 1e-4)
ours = advantages(rewards)
for name, table in (("by hand", by_hand), ("dunwu", ours)):
    print(f"{name:8}", *(" ".join(f"{value:+.4f}" for value in group) for group in table.tolist()), sep="   ")
print("sum of each group:", ours.sum(dim=1).tolist())
""",
    ),
    Text(
        "loss-zero",
        en="""
## 5. Why the loss is 0 while the gradient is not

The loss of a token is −ratio × advantage. Each completion is used once, so the policy that is trained is the policy
that sampled: ratio = p / p = 1 for every token, and the loss is minus the mean advantage: exactly 0. But the
*derivative* of the ratio with respect to log p is 1, not 0: each token gets a gradient of −advantage over its
completion's length and the number of completions. What was better than its group becomes more likely, what was
worse less likely. Below, with four completions of 2, 3, 1 and 3 tokens.

With `loss_type="dapo"` (one mean over all tokens) long completions weigh more, so the value is not 0 but says only
how length and advantage go together. With β > 0 the KL is added. In no case does the loss tell progress.
""",
        zh="""
## 5. 为什么 loss 是 0，梯度却不是

一个 token 的 loss 是 −比值 × 优势。每个回答只用一次，被训练的策略就是采样的策略：每个 token 的比值都是 p / p = 1，
loss 等于负的平均优势，恰好是 0。但比值对 log p 的*导数*是 1，不是 0：
每个 token 得到的梯度是 −优势，再除以所在回答的长度和回答的个数。
比同组好的变得更可能，差的变得更不可能。下面用长度为 2、3、1、3 的四个回答算一遍。

`loss_type="dapo"`（对所有 token 一起求平均）时，长回答权重更大，数值不再是 0，但它只说明长度和优势的相关性。
β > 0 时再加上 KL。无论哪种情况，loss 都不代表进步。
""",
    ),
    Code(
        "zero-loss",
        """
lengths = [2, 3, 1, 3]
mask = torch.tensor([[1.0] * n + [0.0] * (3 - n) for n in lengths])
for mean_of in ("seq_mean", "token_mean"):
    logps = torch.full((4, 3), -1.0, requires_grad=True)  # log p of each sampled token
    result = token_loss(AlgorithmConfig(loss_aggregation=mean_of), logps, ours[0], mask)
    loss = (result.loss_BC * loss_weights(mask, mean_of)).sum() / loss_denominator(lengths, mean_of, 3)
    loss.backward()
    print(f"{mean_of}: loss {loss.item():+.4f}, gradient norm {logps.grad.norm():.4f}")
    print(logps.grad)
""",
    ),
    Text(
        "train",
        en="""
## 6. Train

The batch is written the newer way: 16 completions a device × 4 accumulations = 64 completions = 4 prompts × 16. Dunwu
prints how it read that before the first step; `prompts_per_step=4` says the same without any reading. For a tracker,
log in **in a terminal** (`wandb login`) and add `report_to="wandb"`: a key written in a notebook is a key published.
""",
        zh="""
## 6. 训练

batch 用较新的写法：每卡 16 个回答 × 累积 4 次 = 64 个回答 = 4 道题 × 16。Dunwu 会在第一步之前说明它是怎么理解的；
直接写 `prompts_per_step=4` 则毫无歧义。要用实验平台，请**在终端里**登录（`wandb login`），再加 `report_to="wandb"`：
写进 notebook 的密钥等于公开的密钥。
""",
    ),
    Code(
        "trainer",
        """
class LastStep(Observer):
    def on_step(self, step):
        self.step = step


watch = LastStep()
config = GRPOConfig(
    output_dir=OUTPUT,
    max_steps=STEPS,
    per_device_train_batch_size=16,
    gradient_accumulation_steps=4,
    num_generations=16,
    max_prompt_length=256,
    max_completion_length=LENGTH,
    learning_rate=LEARNING_RATE,
    adam_beta2=0.99,
    weight_decay=0.1,
    warmup_steps=0.1,
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
    observers=["standard", watch],
)
result = trainer.train()
""",
    ),
    Text(
        "group",
        en="""
## 7. A group of the last step

All completions of one prompt with what they earned. Are they different from each other? Did they end (`stop`) or run
into the limit (`length`)? Does the advantage follow what *you* think is better? No curve answers this.
""",
        zh="""
## 7. 最后一步里的一组回答

同一道题的全部回答和各自的得分。它们彼此有差别吗？是自己结束的（`stop`）还是撞上了上限（`length`）？
优势的高低和*你*觉得的好坏一致吗？这些，曲线回答不了。
""",
    ),
    Code(
        "look",
        """
group = watch.step.groups[0]
print(group.prompt.row["question"], "→", group.prompt.row["answer"])
for rollout in group.rollouts[:6]:
    said = rollout.completion
    reward, advantage = f"{rollout.reward:6.3f}", f"{rollout.advantage:+.3f}"
    print(reward, advantage, f"{len(said.ids):4} {said.finish_reason:6} {said.text[:60]!r}")
print({name: round(watch.step.metrics[name], 4) for name in ("loss", "grad_norm", "kl", "frac_reward_zero_std")})
""",
    ),
    Text(
        "again",
        en="""
## 8. The saved folder, asked again

Loaded from disk as anyone would load it: what is tested is what was saved. One question is an anecdote; for a
number with its error, see the end of `gsm8k.ipynb` or run `dunwu eval`.
""",
        zh="""
## 8. 再问存下来的模型

像任何人那样从磁盘加载：测的就是存下来的东西。一道题只是个例；
要带误差的数字，见 `gsm8k.ipynb` 结尾，或用 `dunwu eval`。
""",
    ),
    Code(
        "saved",
        """
trainer.save_model()
saved = to_best_device(load_model(OUTPUT))
last = ask(saved, load_tokenizer(OUTPUT), QUESTION)
print(f"\\n{len(last.ids)} tokens, ended by {last.finish_reason}")
""",
    ),
]
