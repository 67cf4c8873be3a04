// Parser of emoji-test.txt.
#include "data/emoji_list.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "data/image_dataset.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

constexpr char32_t kVariationSelector = 0xFE0F;

bool is_tone(char32_t c) { return c >= 0x1F3FB && c <= 0x1F3FF; }

std::u32string parse_code_points(std::string_view text, const std::string& where) {
  std::u32string out;
  size_t at = 0;
  while ((at = text.find_first_not_of(' ', at)) != std::string_view::npos) {
    const size_t end = std::min(text.find(' ', at), text.size());
    uint32_t code = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, code, 16);
    check(error == std::errc() && stop == text.data() + end && code <= 0x10FFFF, where, ": code point '",
          text.substr(at, end - at), "'; expected a hexadecimal number up to 10FFFF");
    out.push_back(code);
    at = end;
  }
  check(!out.empty(), where, ": no code points before ';'");
  return out;
}

int parse_version(std::string_view text, const std::string& where) {
  int major = -1;
  int minor = -1;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, major);
  if (first.ec == std::errc() && first.ptr < end && *first.ptr == '.') {
    const auto second = std::from_chars(first.ptr + 1, end, minor);
    if (second.ec != std::errc() || second.ptr != end) minor = -1;
  }
  check(major >= 0 && minor >= 0 && minor < 100, where, ": emoji version 'E", text, "'; expected E<major>.<minor>");
  return major * 100 + minor;
}

// "code points ; status # emoji E15.0 name"
EmojiEntry parse_entry(std::string_view line, const std::string& where) {
  EmojiEntry entry;
  entry.code_points = parse_code_points(line.substr(0, line.find(';')), where);
  const size_t mark = line.find(" E", line.find('#'));
  check(line.find('#') != std::string_view::npos && mark != std::string_view::npos, where,
        ": no '# emoji E<version> name' after the status");
  const size_t space = std::min(line.find(' ', mark + 1), line.size());
  entry.version = parse_version(line.substr(mark + 2, space - mark - 2), where);
  entry.name = strip(line.substr(space));
  check(!entry.name.empty(), where, ": the emoji has no name");
  for (const char32_t c : entry.code_points) {
    if (is_tone(c)) {
      entry.tones.push_back(c);
    } else if (c != kVariationSelector) {
      entry.base.push_back(c);
    }
  }
  return entry;
}

// What Unicode 15.1 changed in entries of 15.0: one name and one subgroup.
void undo_later_changes(EmojiEntry& entry) {
  if (entry.code_points == U"\U0001F1F9\U0001F1F7") entry.name = "flag: Turkey";
  if (entry.code_points == U"\U0001F46A") entry.subgroup = "family";
}

std::string_view after(std::string_view line, std::string_view head) { return strip(line.substr(head.size())); }

}  // namespace

std::vector<EmojiEntry> parse_emoji_list(std::string_view text, const std::string& source) {
  std::vector<EmojiEntry> list;
  std::string group;
  std::string subgroup;
  int64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.starts_with("# group:")) {
      group = after(line, "# group:");
    } else if (line.starts_with("# subgroup:")) {
      subgroup = after(line, "# subgroup:");
    } else if (!line.starts_with('#') && line.find("; fully-qualified") != std::string_view::npos) {
      const std::string where = cat(source, ": line ", number);
      check(!group.empty() && !subgroup.empty(), where, ": an emoji before the first group and subgroup");
      EmojiEntry entry = parse_entry(line, where);
      entry.group = group;
      entry.subgroup = subgroup;
      undo_later_changes(entry);
      if (entry.version <= kEmojiVersion) list.push_back(std::move(entry));
    }
  }
  check(!list.empty(), source, ": no fully-qualified emoji; expected Unicode's emoji-test.txt");
  std::sort(list.begin(), list.end(),
            [](const EmojiEntry& a, const EmojiEntry& b) { return a.code_points < b.code_points; });
  for (size_t i = 1; i < list.size(); ++i) {
    check(list[i - 1].code_points != list[i].code_points, source, ": ", emoji_id(list[i].code_points),
          " is listed twice");
  }
  return list;
}

std::vector<EmojiEntry> read_emoji_list(const std::string& path) {
  require_emoji_file(path, "unicode-data");
  return parse_emoji_list(read_file(path), path);
}

uint64_t emoji_list_checksum(const std::vector<EmojiEntry>& list) {
  std::string all;
  for (const EmojiEntry& e : list)
    all += cat(emoji_id(e.code_points), ';', e.name, ';', e.group, ';', e.subgroup, '\n');
  return stable_hash(all, 0);
}

const uint64_t kEmojiListChecksum = 0x2A11A1AB90DFA72EULL;

std::string emoji_id(std::u32string_view code_points) {
  std::ostringstream out;
  out << std::hex;
  for (size_t i = 0; i < code_points.size(); ++i) out << (i == 0 ? "" : "-") << static_cast<uint32_t>(code_points[i]);
  return out.str();
}

std::string emoji_utf8(std::u32string_view code_points) {
  std::string out;
  for (const char32_t c : code_points) append_utf8(out, c);
  return out;
}

std::u32string emoji_from_utf8(std::string_view text) {
  std::u32string out;
  for (int64_t at = 0; at < std::ssize(text);) {
    const CodePoint c = code_point_at(text, at);
    check(c.code != kInvalidCode, "invalid UTF-8 in an emoji at byte ", at);
    out.push_back(c.code);
    at += c.length;
  }
  return out;
}

std::u32string without_variation_selectors(std::u32string_view code_points) {
  std::u32string out;
  for (const char32_t c : code_points) {
    if (c != kVariationSelector) out.push_back(c);
  }
  return out;
}

void require_emoji_file(const std::string& path, const std::string& package) {
  std::error_code error;
  check(std::filesystem::is_regular_file(path, error), path, ": file not found; it comes with the package ", package,
        " (apt-get install ", package, ")");
}

}  // namespace matvlm
