"""How near the tokens of a text are estimated: `python tests/benchmarks/tokens.py`.

Passages of several kinds of text are counted by the published tokenizer, by
`approximate`, and by the rule of thumb in DeepSeek's documentation (0.3 token for
an English character, 0.6 for a Chinese one). None of the passages is downloaded.
"""

from __future__ import annotations

import argparse
import io
import json
import pydoc_data.topics
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from datetime import date, timedelta
from pathlib import Path
from time import perf_counter

from deepseek_magic.tokens import Count, approximate, by_character, count, has_tokenizer

SIZES = (200, 1000, 4000)
PASSAGES = 40
REPOSITORY = Path(__file__).parents[2]
EXTRA = "pip install 'deepseek_magic[tokens]'"

CHINESE = """\
调查在春天进行了六个星期。受访的一千二百人当中，有三分之一表示最近两年换过银行，主要是因为手续费太高。\
年轻人换得更频繁，有房贷的人则很少更换。各地区之间的差别不宜过分解读，因为样本数量有限。
“你昨天说的那家面馆，到底在哪条街？”她一边收拾桌上的书，一边问。我指了指窗外：过了桥往左拐，看见一棵老槐树就到了。\
她笑着摇头，说每次听我指路都像是在听故事，从来没有一次能够顺利找到。
要计算两个变量之间的相关系数，先求出各自的平均值，再求每个观测值与平均值之差的乘积，最后除以两个标准差的乘积。\
结果在负一和正一之间；接近零并不说明两者没有关系，只说明没有线性关系。
本季度公司营业收入同比增长百分之十二点四，净利润略有下降。管理层解释说，原材料涨价和汇率波动是主要原因，\
预计下半年毛利率会逐步恢复。投资者对新产品线的前景仍然存在分歧，股价在公告当天下跌了三个百分点。
山里的雨说来就来。傍晚时分，云从对面的岭上压下来，先是一阵凉风，接着豆大的雨点打在瓦上，噼里啪啦响成一片。\
老人把晒在院子里的玉米一筐一筐搬进屋，嘴里念叨着今年的收成，脸上却看不出着急的样子。
患者男，五十六岁，因反复咳嗽、咳痰两周入院。查体：体温三十七度八，双肺呼吸音粗，可闻及散在湿啰音。\
血常规提示白细胞升高，胸部影像学检查见右下肺斑片状阴影，考虑社区获得性肺炎，予抗感染、化痰等对症治疗。
安装完成以后，请重新启动电脑，然后在设置里打开自动更新。如果屏幕上出现错误提示，请把提示的内容和软件版本号一起发给我们。\
升级之前务必备份重要文件，以免数据丢失。
根据合同第七条的约定，乙方应当在收到货物之日起十五个工作日内完成验收；逾期未提出书面异议的，视为验收合格。\
因不可抗力不能履行义务的一方，应当及时通知对方，并在合理期限内提供证明。
"""


# The texts


def words() -> list[str]:
    """Give the words of Python's own documentation, in their order."""
    return " ".join(pydoc_data.topics.topics.values()).split()


def prose() -> str:
    """Give English prose: the documentation of Python, and of this project."""
    return "\n".join(
        [*pydoc_data.topics.topics.values(), (REPOSITORY / "README.md").read_text("utf-8")]
    )


def poem() -> str:
    """Give the text that `import this` prints."""
    with redirect_stdout(io.StringIO()) as printed:
        import this  # noqa: F401
    return printed.getvalue()


def code() -> str:
    """Give Python: some of the standard library, and this package."""
    library = Path(json.__file__).parents[1]
    names = ("argparse", "statistics", "datetime", "textwrap", "csv", "heapq", "tarfile")
    files = [library / f"{name}.py" for name in names]
    files += sorted((REPOSITORY / "deepseek_magic").glob("*.py"))
    return "\n".join(file.read_text("utf-8") for file in files)


def records(chance: random.Random) -> list[dict[str, object]]:
    """Make up records as an API gives them."""
    known = words()
    return [
        {
            "id": chance.randrange(10**6),
            "name": " ".join(chance.sample(known, 2)),
            "score": round(chance.random() * 100, 3),
            "active": chance.random() < 0.5,
            "tags": chance.sample(known, chance.randrange(4)),
            "note": None if chance.random() < 0.3 else " ".join(chance.sample(known, 8)),
        }
        for _ in range(600)
    ]


def table(chance: random.Random) -> str:
    """Make up a table of numbers as CSV."""
    days = (date(2024, 1, 1) + timedelta(days=n) for n in range(1500))
    rows = (
        f"{day},{chance.choice(['north', 'south'])},{chance.randrange(10**5)},"
        f"{chance.gauss(0, 500):.2f},{chance.random():.6f}"
        for day in days
    )
    return "\n".join(["day,region,orders,revenue,share", *rows])


def mixed(chance: random.Random) -> str:
    """Mix Chinese, English, code and numbers by the paragraph."""
    parts = [
        *CHINESE.split("\n"),
        *prose().split("\n\n")[:60],
        *code().split("\n\n")[:60],
        *table(chance).split("\n")[:60],
    ]
    chance.shuffle(parts)
    return "\n".join(parts)


def kinds() -> dict[str, str]:
    """Give a long text of each kind."""
    chance = random.Random(4)
    made = records(chance)
    chinese = [
        {"编号": n, "评论": chance.choice(CHINESE.split("。")).strip(), "评分": chance.randrange(6)}
        for n in range(600)
    ]
    return {
        "English prose": prose(),
        "English verse": poem(),
        "Chinese prose": CHINESE,
        "Python": code(),
        "JSON, compact": json.dumps(made, separators=(",", ":")),
        "JSON, indented": json.dumps(made, indent=2),
        "JSON, Chinese": json.dumps(chinese, ensure_ascii=False, indent=1),
        "CSV of numbers": table(chance),
        "mixed": mixed(chance),
    }


def passages(text: str, chance: random.Random) -> list[str]:
    """Cut passages of several sizes out of *text*."""
    sizes = [min(size, len(text)) for size in SIZES for _ in range(PASSAGES // len(SIZES) + 1)]
    starts = [chance.randrange(len(text) - size + 1) for size in sizes]
    return [text[start : start + size] for start, size in zip(starts, sizes, strict=True)]


# What is measured


def thumb(text: str) -> int:
    """Count by the documented rule of thumb."""
    plain = sum(character.isascii() for character in text)
    return round(0.3 * plain + 0.6 * (len(text) - plain))


def errors(true: Sequence[int], found: Sequence[int]) -> list[float]:
    """Give by how much each is wrong, in hundredths."""
    return [100 * (one / other - 1) for one, other in zip(found, true, strict=True)]


def shown(wrong: Sequence[float]) -> str:
    """Write the mean of the errors, the mean of their sizes, and the largest."""
    sizes = [abs(one) for one in wrong]
    return f"{statistics.mean(wrong):+7.1f} {statistics.mean(sizes):6.1f} {max(sizes):6.1f}"


def compare() -> None:
    """Print the errors of the estimate and of the rule of thumb, by kind of text."""
    chance = random.Random(7)
    print("errors in hundredths: mean, mean size, largest;  inside: true count in the range")
    print(f"{'':16}{'estimate':>22}{'by character':>24}{'rule of thumb':>24}   inside")
    for kind, text in kinds().items():
        cut = passages(text, chance)
        true = [count(passage).likely for passage in cut]
        found: list[Count] = [approximate(passage) for passage in cut]
        inside = sum(one.low <= n <= one.high for one, n in zip(found, true, strict=True))
        columns = [
            shown(errors(true, [one.likely for one in found])),
            shown(errors(true, [by_character(passage) for passage in cut])),
            shown(errors(true, [thumb(passage) for passage in cut])),
        ]
        print(f"{kind:16}{columns[0]:>22}  {columns[1]}  {columns[2]}   {inside}/{len(cut)}")


def milliseconds(work: Callable[[str], object], text: str) -> float:
    """Time *work* on *text* once."""
    began = perf_counter()
    work(text)
    return (perf_counter() - began) * 1000


def speed() -> None:
    """Print how long estimating a million characters takes, and counting what is counted."""
    english, chinese = (code() * 9)[:1_000_000], CHINESE * 1500
    for name, text in (("Python", english), ("Chinese", chinese[:1_000_000])):
        best = min(milliseconds(approximate, text) for _ in range(5))
        print(f"estimate of {len(text):,} characters, {name}: {best:.0f} ms (best of 5)")
    began = perf_counter()
    if not has_tokenizer():
        return
    print(f"loading the tokenizer: {(perf_counter() - began) * 1000:.0f} ms")
    for size in (4000, 20_000):
        once, again = (milliseconds(count, english[-size:]) for _ in range(2))
        print(f"count of {size:,} characters, Python: {once:.1f} ms, again {again:.1f} ms")


def main() -> None:
    """Print both tables; the errors need the tokenizer."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    speed()
    if not has_tokenizer():
        sys.exit(f"The errors are not measured, for there is no tokenizer to hold against: {EXTRA}")
    compare()


if __name__ == "__main__":
    main()
