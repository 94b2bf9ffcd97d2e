#!/usr/bin/env python3
"""Writes tokenizers/: small tokenizers in Hugging Face's format, and texts with the ids that they have.

Usage: make_tokenizer_cases.py tests/data/tokenizers

The ids are computed here, from the definitions and with Python's own Unicode tables and regular expressions: nothing of
Heddle is used. Every run writes the same bytes.
"""
import json
import math
import os
import re
import sys
import unicodedata

TEXT = """The weaver pulls the threads over and under, and the loom sings. Weaving is slow work: wool, linen, silk.
She doesn't stop; they're watching, it's late, we've time and I'll stay. In 2024 there were 1,234 looms at 50%.
Le café naïf coûte 3€; die Straße ist groß. Привет, мир! 日本語のテキスト。 中文字符测试，标点。 한국어 문장입니다.
Under the old roof the river runs, and the threads run under the weaver's hands over and over again."""

TEXTS = [
    "", " ", "   ", "the weaver", " leading and trailing  ", "Weaving, unweaving; overworked!", "tabs\tand\nnew\r\nlines\n\n",
    "ALL CAPS and MiXeD", "don't we'll I'm they've IT'S", "naïve café Straße STRASSE", "e\u0301 combining a\u0308\u0323 o\u0302",
    "日本語のテキスト", "中文字符测试，标点。", "Привет, мир!", "한국어 문장입니다", "हिन्दी पाठ", "שלום עולם مرحبا",
    "\U0001F600\U0001F389 emoji \U0001F469\u200d\U0001F469\u200d\U0001F467 family \U0001F1E9\U0001F1EA",
    "\u200bzero\u200bwidth\ufeff", "a\u00a0nbsp\u2003em\u3000wide\u0085next", "1234567890 3.14159 1,000,000 ½ ² Ⅳ １２",
    "user@example.org http://example.org/a?b=c&d=e#f", "$100 €200 £300 + = ~ ^ ` | < >", "C++ == C#; x+=1 // y",
    "a" * 120, "weaver" * 20, "\x00\x01\x02 control \x7f", "ﬁ ligature ﬂ ™", "İstanbul ıssız ẞ", "ΑΒΓ αβγς",
    "“curly” ‘quotes’ — dash … ellipsis", "the  river   runs    under", "x" + " " * 30 + "y", "\n\n\n", "it's\n it's",
    "▁under▁the▁", "<0x41>", "under_the_score __init__",
    "the\fweaver the\vloom the\u0085roof", "a!\u180e!b a\u180eb",
]
PAIRS = [("the weaver", "sings"), ("", "the loom"), ("over and under and over", "the threads run under the old roof")]


def white_space(c):
    return c in "\t\n\v\f\r \x85\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" or "\u2000" <= c <= "\u200a"


def category(c):
    return unicodedata.category(c)


def longest_runs(text):
    """Substrings of words with their counts, for vocabularies."""
    counts = {}
    for word in text.split():
        for begin in range(len(word)):
            for end in range(begin + 1, min(len(word), begin + 8) + 1):
                counts[word[begin:end]] = counts.get(word[begin:end], 0) + 1
    return counts


def special(ids):
    return [{"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True} for content, i in ids.items()]


def template(before, after, ids):
    def token(name, kind):
        return {"SpecialToken": {"id": name, "type_id": kind}}
    def text(name, kind):
        return {"Sequence": {"id": name, "type_id": kind}}
    return {"type": "TemplateProcessing",
            "single": [token(t, 0) for t in before] + [text("A", 0)] + [token(t, 0) for t in after],
            "pair": [token(t, 0) for t in before] + [text("A", 0)] + [token(t, 0) for t in after] + [text("B", 1)] +
                    [token(t, 1) for t in after],
            "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in before + after}}


# ---- WordPiece ----------------------------------------------------------------------------------------------------------

def ideograph(c):
    return any(a <= ord(c) <= b for a, b in [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0xF900, 0xFAFF),
                                            (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F)])


def bert_words(text):
    cleaned = ""
    for c in text:
        if c in "\0\ufffd" or c not in "\t\n\r" and category(c) in ("Cc", "Cf", "Co"):
            continue
        if white_space(c):
            cleaned += " "
        elif ideograph(c):
            cleaned += " " + c + " "
        else:
            cleaned += c
    stripped = "".join(c for c in unicodedata.normalize("NFD", cleaned) if category(c) != "Mn")
    lowered = "".join(c.lower() for c in stripped)
    spaced = ""
    for c in lowered:
        mark = category(c)[0] == "P" or (ord(c) < 128 and c > " " and not c.isalnum() and c != "\x7f")
        spaced += " " + c + " " if mark else c
    return "".join(" " if white_space(c) else c for c in spaced).split(" ")


def wordpiece(vocab, text):
    ids = []
    for word in bert_words(text):
        if not word:
            continue
        pieces, begin = [], 0
        while begin < len(word) and pieces is not None:
            for end in range(len(word), begin, -1):
                piece = ("##" if begin > 0 else "") + word[begin:end]
                if piece in vocab:
                    pieces.append(vocab[piece])
                    begin = end
                    break
            else:
                pieces = None
        ids += [vocab["[UNK]"]] if pieces is None or len(word) > 100 else pieces
    return ids


def make_wordpiece():
    words = " ".join(w for w in bert_words(TEXT) if w)
    counts = longest_runs(words)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({c for c in words if c != " "})
    names += letters + ["##" + c for c in letters if c.isalnum()]
    chosen = sorted((s for s in counts if len(s) > 1 and counts[s] > 1), key=lambda s: (-counts[s] * len(s), s))[:150]
    names += chosen[:90] + ["##" + s for s in chosen[30:]]
    names = list(dict.fromkeys(names))
    vocab = {name: i for i, name in enumerate(names)}
    ids = {name: vocab[name] for name in names[:5]}
    tokenizer = {"version": "1.0", "added_tokens": special(ids),
                 "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                                "strip_accents": None, "lowercase": True},
                 "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": template(["[CLS]"], ["[SEP]"], ids),
                 "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
                 "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                           "max_input_chars_per_word": 100, "vocab": vocab}}
    return tokenizer, lambda text: wordpiece(vocab, text), ([ids["[CLS]"]], [ids["[SEP]"]])


# ---- BPE ----------------------------------------------------------------------------------------------------------------

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")


def split(pattern, text):
    """By a pattern of ASCII classes, on a shadow of the text: each other character as one of ASCII of its class."""
    shadow = ""
    for c in text:
        if ord(c) < 128:
            shadow += "!" if "\x1c" <= c <= "\x1f" else c  # white space for Python, not for Unicode
        else:
            shadow += "\t" if white_space(c) else {"L": "Z", "N": "0"}.get(category(c)[0], "!")
    return [text[m.start():m.end()] for m in re.finditer(pattern, shadow)]


def byte_characters():
    printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) if b in printable else chr(0x100 + others.index(b)) for b in range(256)}


BYTES = byte_characters()


def train(words, count):
    """Merges of the most frequent pairs; of equals the first in order."""
    words = [list(w) for w in words]
    merges = []
    while len(merges) < count:
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        if pairs[best] < 2:
            break
        merges.append(best)
        words = [merge_all(word, best) for word in words]
    return merges


def merge_all(word, pair):
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


def bpe(symbols, ranks):
    """Always the pair of the lowest rank, the leftmost of equals."""
    symbols = list(symbols)
    while True:
        candidates = [(ranks[p], i) for i, p in enumerate(zip(symbols, symbols[1:])) if p in ranks]
        if not candidates:
            return symbols
        i = min(candidates)[1]
        symbols[i:i + 2] = [symbols[i] + symbols[i + 1]]


def make_byte_level(pattern, llama3):
    def cut(text):
        return [[BYTES[b] for b in w.encode()] for w in split(pattern, text)]
    merges = train(cut(TEXT), 150)
    names = [BYTES[b] for b in range(256)] + [a + b for a, b in merges]
    names = list(dict.fromkeys(names))
    vocab = {name: i for i, name in enumerate(names)}
    ids = {"<|begin_of_text|>": len(vocab), "<|end_of_text|>": len(vocab) + 1} if llama3 else {"<|endoftext|>": len(vocab)}
    ranks = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault(pair, rank)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not llama3}
    pre = level
    if llama3:
        regex = pattern.replace("[^\\r\\nA-Za-z0-9]", r"[^\r\n\p{L}\p{N}]").replace("[^\\sA-Za-z0-9]", r"[^\s\p{L}\p{N}]")
        regex = regex.replace("[A-Za-z]", r"\p{L}").replace("[0-9]", r"\p{N}")
        pre = {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}, level]}
    post = template(["<|begin_of_text|>"], [], ids) if llama3 else level
    tokenizer = {"version": "1.0", "added_tokens": special(ids), "normalizer": None, "pre_tokenizer": pre,
                 "post_processor": {"type": "Sequence", "processors": [level, post]} if llama3 else post, "decoder": level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False,
                           "ignore_merges": llama3, "vocab": vocab, "merges": [list(m) if llama3 else " ".join(m) for m in merges]}}

    def encode(text):
        out = []
        for word in cut(text):
            whole = "".join(word)
            out += [vocab[whole]] if llama3 and whole in vocab else [vocab[s] for s in bpe(word, ranks)]
        return out
    return tokenizer, encode, ([ids["<|begin_of_text|>"]] if llama3 else [], [])


def make_fallback():
    """Characters, with bytes for those that have no token: as Llama 2."""
    def normalize(text):
        return "▁" + text.replace(" ", "▁") if text else ""
    merges = train(re.findall("▁*[^▁]+", normalize(TEXT.replace("\n", " "))), 150)
    letters = sorted(set(normalize("".join(c for c in TEXT if ord(c) < 0x250 and c != "\n"))))
    merges = [m for m in merges if all(c in letters for c in m[0] + m[1])]
    names = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)] + letters + [a + b for a, b in merges]
    names = list(dict.fromkeys(names))
    vocab = {name: i for i, name in enumerate(names)}
    ids = {name: vocab[name] for name in names[:3]}
    ranks = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault(pair, rank)
    tokenizer = {"version": "1.0", "added_tokens": special(ids),
                 "normalizer": {"type": "Sequence", "normalizers": [
                     {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                 "pre_tokenizer": None, "post_processor": template(["<s>"], [], ids),
                 "decoder": {"type": "Sequence", "decoders": [
                     {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                     {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
                 "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
                           "merges": [" ".join(m) for m in merges]}}

    def encode(text):
        symbols = []
        for c in normalize(text):
            symbols += [c] if c in letters else ["<0x%02X>" % b for b in c.encode()]
        return [vocab[s] for s in bpe(symbols, ranks)]
    return tokenizer, encode, ([ids["<s>"]], [])


# ---- Unigram ------------------------------------------------------------------------------------------------------------

def make_unigram():
    def normalize(text):
        return re.sub(" {2,}", " ", unicodedata.normalize("NFKC", text))

    def words(text):
        text = normalize(text).replace(" ", "▁")
        if not text:
            return []
        return re.findall("▁[^▁]*|[^▁]+", text if text[0] == "▁" else "▁" + text)
    counts = {}
    for word in words(TEXT.replace("\n", " ")):
        for begin in range(len(word)):
            for end in range(begin + 1, min(len(word), begin + 7) + 1):
                counts[word[begin:end]] = counts.get(word[begin:end], 0) + 1
    chosen = [s for s in counts if len(s) == 1 and ord(s) < 0x3100 or counts[s] > 1]
    chosen = sorted(chosen, key=lambda s: (-counts[s] * len(s), s))[:260]
    total = sum(counts[s] for s in chosen)
    # Scores with a different last digit each, so that no two ways cost the same.
    scores = [(s, round(math.log(counts[s] / total) - 1e-4 * i - 1e-7 * i * i, 7)) for i, s in enumerate(chosen)]
    vocab = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]] + [[s, score] for s, score in scores]
    ids = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    index = {s: i for i, (s, _) in enumerate(vocab)}
    unknown = min(score for _, score in vocab) - 10
    longest = max(len(s) for s in index)
    tokenizer = {"version": "1.0", "added_tokens": special(ids),
                 "normalizer": {"type": "Sequence", "normalizers": [
                     {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
                 "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
                 "post_processor": template([], ["</s>"], ids),
                 "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
                 "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": False, "vocab": vocab}}

    def encode_word(word):
        best = [(0.0, None, None)] + [None] * len(word)
        for begin in range(len(word)):
            for end in range(begin + 1, min(len(word), begin + longest) + 1):
                piece = word[begin:end]
                if piece in index:
                    way = (best[begin][0] + vocab[index[piece]][1], begin, index[piece])
                elif end == begin + 1:
                    way = (best[begin][0] + unknown, begin, 2)
                else:
                    continue
                if best[end] is None or way[0] > best[end][0]:
                    best[end] = way
        out, end = [], len(word)
        while end > 0:
            out.append(best[end][2])
            end = best[end][1]
        fused = []
        for i in reversed(out):
            if not (i == 2 and fused and fused[-1] == 2):
                fused.append(i)
        return fused
    return tokenizer, lambda text: sum((encode_word(w) for w in words(text)), []), ([], [1])


def main():
    out = sys.argv[1]
    kinds = {"wordpiece": make_wordpiece(), "byte-level": make_byte_level(GPT2, False),
             "byte-level-split": make_byte_level(LLAMA3, True), "byte-fallback": make_fallback(), "unigram": make_unigram()}
    for name, (tokenizer, encode, (before, after)) in kinds.items():
        os.makedirs(os.path.join(out, name), exist_ok=True)
        with open(os.path.join(out, name, "tokenizer.json"), "w", encoding="utf-8") as file:
            json.dump(tokenizer, file, ensure_ascii=False, separators=(",", ":"))
            file.write("\n")
        with open(os.path.join(out, name, "cases.jsonl"), "w", encoding="utf-8") as file:
            def case(**fields):
                file.write(json.dumps(fields, separators=(",", ":")) + "\n")
            for text in TEXTS + TEXT.split("\n"):
                case(text=text, ids=before + encode(text) + after)
            for first, second in PAIRS:
                a, b = before + encode(first) + after, encode(second) + after
                types = [0] * len(a) + [1] * len(b)
                case(text=first, second=second, ids=a + b, types=types)


if __name__ == "__main__":
    main()
