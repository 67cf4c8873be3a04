#!/usr/bin/env python3
"""Writes data/unicode_normalization.cpp from the Unicode character database (Debian package unicode-data).

Usage: data/make_unicode_normalization.py [/usr/share/unicode] > data/unicode_normalization.cpp
"""
import sys

folder = sys.argv[1] if len(sys.argv) > 1 else "/usr/share/unicode"
# Hugging Face tokenizers normalise by Unicode 9.0: for equal ids, so do we. Later characters are left as they are.
NEWEST = (9, 0)


def properties(name):
    for line in open(folder + "/" + name, encoding="utf-8"):
        fields = [f.strip() for f in line.split("#")[0].split(";")]
        if fields[0]:
            ends = [int(e, 16) for e in fields[0].split("..")]
            yield range(ends[0], ends[-1] + 1), fields[1:]


old = {c for codes, (age, *_) in properties("DerivedAge.txt") for c in codes
       if tuple(int(part) for part in age.split(".")) <= NEWEST}
excluded = {c for codes, fields in properties("DerivedNormalizationProps.txt")
            if fields[0] == "Full_Composition_Exclusion" for c in codes}
classes, parts = {}, {}
for line in open(folder + "/UnicodeData.txt", encoding="ascii"):
    fields = line.split(";")
    code = int(fields[0], 16)
    if code not in old:
        continue
    if fields[3] != "0":
        classes[code] = int(fields[3])
    if fields[5] and not fields[5].startswith("<"):
        parts[code] = [int(c, 16) for c in fields[5].split()]
pairs = sorted((c, p[0], p[1]) for c, p in parts.items() if len(p) == 2)
singles = sorted((c, p[0]) for c, p in parts.items() if len(p) == 1)
runs = []  # of code points that follow each other and each stand for one other
for i, (code, _) in enumerate(singles):
    if runs and code == runs[-1][0] + runs[-1][1]:
        runs[-1][1] += 1
    else:
        runs.append([code, 1, i])


def table(declaration, cells):
    lines, line = [], ""
    for cell in cells:
        if len(line) + len(cell) + 2 > 114:
            lines.append(line)
            line = ""
        line += ("" if line == "" else " ") + cell + ","
    lines.append(line)
    return "constexpr %s[] = {\n    %s\n};\n" % (declaration, "\n    ".join(lines))


def ranges():
    out = []
    for c in sorted(classes):
        if out and out[-1][1] == c - 1 and out[-1][2] == classes[c]:
            out[-1][1] = c
        else:
            out.append([c, c, classes[c]])
    return out


print('''// Tables of Unicode 9.0 canonical decomposition and composition, in rising order.
// Made by data/make_unicode_normalization.py from the Unicode character database; do not edit.
#include "data/unicode_normalization.h"

namespace matvlm {
namespace {

// clang-format off''')
print(table("CombiningRange kCombining", ["{0x%X, 0x%X, %d}" % tuple(r) for r in ranges()]))
print(table("DecompositionPair kPairs", ["{0x%X, 0x%X, 0x%X}" % p for p in pairs]))
print(table("uint32_t kExcluded", ["0x%X" % c for c, _, _ in pairs if c in excluded]))
print(table("SingleRun kSingleRuns", ["{0x%X, %d, %d}" % tuple(r) for r in runs]))
print(table("uint32_t kSingles", ["0x%X" % p for _, p in singles]), end="")
print('''// clang-format on

}  // namespace

std::span<const CombiningRange> combining_ranges() { return kCombining; }
std::span<const DecompositionPair> decomposition_pairs() { return kPairs; }
std::span<const uint32_t> composition_exclusions() { return kExcluded; }
std::span<const SingleRun> single_runs() { return kSingleRuns; }
std::span<const uint32_t> single_targets() { return kSingles; }

}  // namespace matvlm''')
