#!/usr/bin/env python3
"""Writes data/unicode_classes.cpp from the Unicode character database (Debian package unicode-data).

Usage: data/make_unicode_classes.py [/usr/share/unicode] > data/unicode_classes.cpp
"""
import sys

folder = sys.argv[1] if len(sys.argv) > 1 else "/usr/share/unicode"
category = {}
first = None
for line in open(folder + "/UnicodeData.txt", encoding="ascii"):
    code, name, kind = line.split(";")[:3]
    code = int(code, 16)
    if name.endswith(", First>"):
        first = code
    elif name.endswith(", Last>"):
        category.update((c, kind) for c in range(first, code + 1))
    else:
        category[code] = kind
alphabetic = set()
join_control = set()
for source, prop, target in (("DerivedCoreProperties.txt", "Alphabetic", alphabetic),
                             ("PropList.txt", "Join_Control", join_control)):
    for line in open(folder + "/" + source, encoding="utf-8"):
        fields = [f.strip() for f in line.split("#")[0].split(";")]
        if len(fields) >= 2 and fields[1] == prop:
            ends = [int(e, 16) for e in fields[0].split("..")]
            target.update(range(ends[0], ends[-1] + 1))


def ranges(members):
    out = []
    for c in sorted(members):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def table(name, members):
    cells = ["{0x%X, 0x%X}" % tuple(r) for r in ranges(members)]
    lines, line = [], ""
    for cell in cells:
        if len(line) + len(cell) + 2 > 114:
            lines.append(line)
            line = ""
        line += ("" if line == "" else " ") + cell + ","
    lines.append(line)
    return "constexpr Range %s[] = {\n    %s\n};\n" % (name, "\n    ".join(lines))


letters = {c for c, k in category.items() if k[0] == "L"}
numbers = {c for c, k in category.items() if k[0] == "N"}
word = alphabetic | join_control | {c for c, k in category.items() if k[0] == "M" or k in ("Nd", "Pc")}
print('''// Tables of Unicode 15.0 character classes, as closed ranges in rising order.
// Made by data/make_unicode_classes.py from the Unicode character database; do not edit.
#include "data/unicode_classes.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace matvlm {
namespace {

struct Range {
  uint32_t first;
  uint32_t last;
};

// clang-format off''')
print(table("kLetters", letters))
print(table("kNumbers", numbers))
print(table("kWord", word), end="")
print('''// clang-format on

// Classes of the first 0x20000 code points, one bit each, made at first use; beyond lie few, which are searched.
enum Bit : uint8_t { kLetterBit = 1, kNumberBit = 2, kSpaceBit = 4, kWordBit = 8 };
constexpr uint32_t kDirect = 0x20000;

template <size_t N>
bool in_table(const Range (&table)[N], uint32_t code) {
  const Range* after = std::upper_bound(std::begin(table), std::end(table), code,
                                        [](uint32_t value, const Range& range) { return value < range.first; });
  return after != std::begin(table) && code <= std::prev(after)->last;
}

constexpr Range kSpaces[] = {{0x9, 0xD},       {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
                             {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};

std::vector<uint8_t> make_bits() {
  std::vector<uint8_t> bits(kDirect, 0);
  const auto mark = [&bits](const auto& table, uint8_t bit) {
    for (const Range& range : table) {
      for (uint32_t code = range.first; code <= range.last && code < kDirect; ++code) bits[code] |= bit;
    }
  };
  mark(kLetters, kLetterBit);
  mark(kNumbers, kNumberBit);
  mark(kSpaces, kSpaceBit);
  mark(kWord, kWordBit);
  return bits;
}

bool has_bit(uint32_t code, uint8_t bit) {
  static const std::vector<uint8_t> bits = make_bits();
  return (bits[code] & bit) != 0;
}

}  // namespace

bool is_letter(uint32_t code) { return code < kDirect ? has_bit(code, kLetterBit) : in_table(kLetters, code); }

bool is_number(uint32_t code) { return code < kDirect ? has_bit(code, kNumberBit) : in_table(kNumbers, code); }

bool is_space(uint32_t code) { return code < kDirect && has_bit(code, kSpaceBit); }

bool is_word(uint32_t code) { return code < kDirect ? has_bit(code, kWordBit) : in_table(kWord, code); }

}  // namespace matvlm''')
