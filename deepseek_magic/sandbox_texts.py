"""What the simulated answers are made of, in the two languages in which it is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of one language; `{}` in them is filled in by the answer."""

    nameless: str
    thoughts: tuple[str, ...]
    essay: str
    one_picture: str
    pictures: str
    lists: tuple[tuple[str, ...], ...]
    table: str
    code: str
    math: str
    quote: str
    goes_on: str


ENGLISH = Texts(
    nameless="Your question",
    thoughts=(
        "The question is: {subject} There is no model here, so there is nothing to think about. ",
        "These lines stand here so that reasoning can be seen, folded and counted in a sandbox. ",
        "They are billed as output, as the API does it. ",
        "A model would weigh what it knows, try an answer, and look for what is wrong in it. ",
        "It would then settle on an order, drop what does not help, and begin to write.",
    ),
    essay="""**{subject}**

This answer comes from the *sandbox*, a simulated account: no model has read the question, and no \
real money is spent.{pictures} A model would build its answer like this:

{steps}

{extra}

Ask again and the same words come back; ask something else and they change.""",
    one_picture=" With it came a picture, at which nobody has looked.",
    pictures=" With it came {number} pictures, at which nobody has looked.",
    lists=(
        (
            "**Read** the question and everything that was said before it.",
            "**Say** the main thing first, and the reasons after it.",
            "**Stop** when the question is answered.",
        ),
        (
            "**What is known**: a definition, a number, a source.",
            "**What follows**: one step at a time, so that each can be checked.",
            "**What is open**: the part that nobody should take on trust.",
        ),
        (
            "**First**, the short answer in one sentence.",
            "**Then**, an example that can be tried at once.",
            "**Last**, where the rule ends and what to do there.",
        ),
    ),
    table="""| part | what it shows |
| --- | --- |
| reasoning | folded above the answer |
| usage | tokens in, cached and out |
| cost | to the sixth digit |""",
    code="""```python
def average(values):
    return sum(values) / len(values)
```""",
    math="""The best known formula serves as an example: $E = mc^2$, and on a line of its own

$$\\bar{x} = \\frac{1}{n} \\sum_{i=1}^{n} x_i$$""",
    quote="> A sandbox is a good place to fall: everything is real except the money and the model.",
    goes_on=(
        " and so on: the sandbox, which is no model, continues the text from here to this stop."
    ),
)
CHINESE = Texts(
    nameless="你的问题",
    thoughts=(
        "问题是：{subject} 这里没有模型，所以也没有什么可思考的。",
        "写下这几行，是为了在沙盒里也能看到、折叠和统计思考过程。",
        "它们和真实的 API 一样按输出计费。",
        "模型会权衡已知的内容，先试着作答，再找出其中的问题。",
        "然后理清顺序，去掉无用的部分，开始动笔。",
    ),
    essay="""**{subject}**

这个回答来自*沙盒*，即模拟账户：没有模型读过这个问题，也没有花费真实的钱。{pictures}模型会这样组织回答：

{steps}

{extra}

再问一次，得到的文字相同；换个问题，文字也会改变。""",
    one_picture="随问题来了一张图片，没有谁看过它。",
    pictures="随问题来了 {number} 张图片，没有谁看过它们。",
    lists=(
        (
            "**读**问题，以及之前说过的一切。",
            "**先说**要点，再说理由。",
            "**停**在问题已经回答的地方。",
        ),
        (
            "**已知的**：一个定义、一个数字、一个来源。",
            "**由此得出的**：一步一步来，每一步都可以检验。",
            "**未定的**：不该轻信的那一部分。",
        ),
        (
            "**首先**，用一句话给出简短的回答。",
            "**然后**，举一个马上就能试的例子。",
            "**最后**，说明规则在哪里失效、那时怎么办。",
        ),
    ),
    table="""| 部分 | 显示的内容 |
| --- | --- |
| 思考过程 | 折叠在回答上方 |
| 用量 | 输入、缓存命中和输出的 token |
| 费用 | 精确到小数点后六位 |""",
    code="""```python
def average(values):
    return sum(values) / len(values)
```""",
    math="""以最有名的公式为例：$E = mc^2$，以及单独成行的

$$\\bar{x} = \\frac{1}{n} \\sum_{i=1}^{n} x_i$$""",
    quote="> 沙盒是个摔倒也不疼的地方：除了钱和模型，一切都是真的。",
    goes_on="，如此等等：沙盒不是模型，它把文字从这里续写到这个句号为止。",
)


def texts_for(question: str) -> Texts:
    """Give the texts of the language in which *question* is written."""
    return CHINESE if _HAN.search(question) else ENGLISH
