"""The words of the demo's small world, English and Chinese side by side.

Owns tables only; sentences are made of them in ``tools`` and ``pretraining``.
"""

from __future__ import annotations

import re

Pairs = tuple[tuple[str, str], ...]


def _pairs(text: str) -> Pairs:
    """Read ``"Paris 巴黎, Rome 罗马"``; the last word of each entry is the Chinese one."""
    entries = [entry.strip().rsplit(" ", 1) for entry in text.split(",")]
    return tuple((english, chinese) for english, chinese in entries)


CITIES = _pairs(
    "Paris 巴黎, London 伦敦, Rome 罗马, Berlin 柏林, Madrid 马德里, Tokyo 东京, Beijing 北京, Shanghai 上海,"
    "Sydney 悉尼, Cairo 开罗, Oslo 奥斯陆, Vienna 维也纳, Athens 雅典, Dublin 都柏林, Lisbon 里斯本,"
    "Prague 布拉格, Delhi 德里, Seoul 首尔, Boston 波士顿, Chicago 芝加哥, Moscow 莫斯科, Milan 米兰,"
    "Geneva 日内瓦, Havana 哈瓦那, Lima 利马, Nairobi 内罗毕, Toronto 多伦多, Warsaw 华沙, Chengdu 成都, Xiamen 厦门"
)
DAYS = _pairs(
    "Monday 周一, Tuesday 周二, Wednesday 周三, Thursday 周四, Friday 周五,"
    " Saturday 周六, Sunday 周日, today 今天, tomorrow 明天"
)
RESTAURANTS = _pairs(
    "Sakura 樱花, Lotus 荷花, Bamboo 竹园, Aurora 极光, Jade 翡翠, Harbor 海港, Olive 橄榄, Maple 枫叶, Dragon 金龙,"
    "Garden 花园, Ocean 海洋, Phoenix 凤凰, Willow 柳树, Amber 琥珀, Coral 珊瑚, Summit 山顶, Lantern 灯笼, Pearl 珍珠"
)
LANGUAGES = _pairs(
    "French 法语, German 德语, Spanish 西班牙语, Italian 意大利语,"
    "Japanese 日语, Korean 韩语, Russian 俄语, Arabic 阿拉伯语"
)
PHRASES = _pairs(
    "good morning 早上好, good night 晚安, thank you 谢谢, see you soon 回头见, happy birthday 生日快乐,"
    "welcome home 欢迎回家, good luck 祝你好运, well done 做得好, I am sorry 对不起, have fun 玩得开心,"
    "safe trip 一路平安, no problem 没问题, take care 保重, I miss you 我想你, excuse me 打扰一下, be quiet 请安静"
)
THINGS = _pairs(
    "tea 茶, pasta 面条, rice 米饭, eggs 鸡蛋, bread 面包, soup 汤, cake 蛋糕, coffee 咖啡, laundry 洗衣, yoga 瑜伽,"
    "reading 阅读, nap 午睡, homework 作业, piano 钢琴, meeting 会议, walk 散步"
)
NAMES = _pairs(
    "Anna 安娜, Peter 彼得, Maria 玛丽, Lucas 卢卡, Emma 艾玛, Oscar 奥斯卡,"
    "Nina 妮娜, Victor 维克多, Clara 克拉拉, Hugo 雨果"
)
# Words that requests are made of, so that the base model has read them all.
COMMON: tuple[str, ...] = tuple(
    re.findall(
        r"\w+",
        "weather forecast umbrella rain table seats timer minutes minute remind count down wake start show tell find "
        "reserve book people convert change many need have how what say into translate put question hello quick there "
        "we after about me I is are will do in on at the you get us for a an of and hi "
        "天气 预报 带伞 下雨 桌子 位子 计时器 分钟 计时 提醒 倒数 叫 定 看看 告诉我 给 订 一张 个人 把 换成 能换 多少 "
        "想要 我有 怎么样 什么 说 等于 翻译成 用 请问 你好 问一下 怎么讲 吃饭 我们 想去 过 后 我 是 算一下 会 要 在 里 "
        "的 查一下 为 吗 一个",
    )
)
CURRENCIES = (
    ("USD", "dollars", "美元"),
    ("EUR", "euros", "欧元"),
    ("GBP", "pounds", "英镑"),
    ("JPY", "yen", "日元"),
    ("CNY", "yuan", "人民币"),
    ("CHF", "francs", "瑞士法郎"),
    ("INR", "rupees", "卢比"),
    ("KRW", "won", "韩元"),
)
COUNTS = (
    (2, "two", "两"),
    (3, "three", "三"),
    (4, "four", "四"),
    (5, "five", "五"),
    (6, "six", "六"),
    (7, "seven", "七"),
    (8, "eight", "八"),
    (9, "nine", "九"),
)
