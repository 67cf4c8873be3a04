// UTF-8 walking after table 3-7 of the Unicode standard (well-formed byte sequences).
#include "data/utf8.h"

#include "data/unicode_classes.h"

namespace matvlm {
namespace {

struct Lead {
  int64_t length = 0;  // of the whole sequence; 0 = no lead byte
  uint32_t bits = 0;
  uint8_t low = 0x80;  // limits of the second byte
  uint8_t high = 0xBF;
};

Lead classify_lead(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, byte & 0x1FU, 0x80, 0xBF};
  if (byte >= 0xE0 && byte <= 0xEF) {
    const uint8_t low = byte == 0xE0 ? 0xA0 : 0x80;
    const uint8_t high = byte == 0xED ? 0x9F : 0xBF;
    return {3, byte & 0x0FU, low, high};
  }
  if (byte >= 0xF0 && byte <= 0xF4) {
    const uint8_t low = byte == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = byte == 0xF4 ? 0x8F : 0xBF;
    return {4, byte & 0x07U, low, high};
  }
  return {};
}

bool is_strip_space(uint32_t code) { return is_space(code) || (code >= 0x1C && code <= 0x1F); }

}  // namespace

CodePoint code_point_at(std::string_view text, int64_t at) {
  const auto byte = [&](int64_t i) { return static_cast<uint8_t>(text[static_cast<size_t>(i)]); };
  if (byte(at) < 0x80) return {byte(at), 1};
  const Lead lead = classify_lead(byte(at));
  if (lead.length == 0) return {kInvalidCode, 1};
  uint32_t code = lead.bits;
  for (int64_t i = 1; i < lead.length; ++i) {
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (at + i >= static_cast<int64_t>(text.size()) || byte(at + i) < low || byte(at + i) > high) {
      return {kInvalidCode, i};
    }
    code = (code << 6U) | (byte(at + i) & 0x3FU);
  }
  return {code, lead.length};
}

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0U | (code >> 6U));
    put(0x80U | (code & 0x3FU));
  } else if (code < 0x10000) {
    put(0xE0U | (code >> 12U));
    put(0x80U | ((code >> 6U) & 0x3FU));
    put(0x80U | (code & 0x3FU));
  } else {
    put(0xF0U | (code >> 18U));
    put(0x80U | ((code >> 12U) & 0x3FU));
    put(0x80U | ((code >> 6U) & 0x3FU));
    put(0x80U | (code & 0x3FU));
  }
}

int64_t incomplete_utf8_tail(std::string_view text) {
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t back = 1; back <= 3 && back <= size; ++back) {
    const auto byte = static_cast<uint8_t>(text[static_cast<size_t>(size - back)]);
    if ((byte & 0xC0U) == 0x80U) continue;
    const CodePoint point = code_point_at(text, size - back);
    const bool open = point.code == kInvalidCode && point.length == back && classify_lead(byte).length > back;
    return open ? back : 0;
  }
  return 0;
}

std::string repair_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (int64_t at = 0; at < static_cast<int64_t>(text.size());) {
    const CodePoint point = code_point_at(text, at);
    if (point.code == kInvalidCode) {
      append_utf8(out, 0xFFFD);
    } else {
      out.append(text.substr(static_cast<size_t>(at), static_cast<size_t>(point.length)));
    }
    at += point.length;
  }
  return out;
}

std::string_view strip(std::string_view text) {
  const auto size = static_cast<int64_t>(text.size());
  int64_t begin = 0;
  int64_t end = 0;
  bool started = false;
  for (int64_t at = 0; at < size;) {
    const CodePoint point = code_point_at(text, at);
    if (!is_strip_space(point.code)) {
      if (!started) begin = at;
      started = true;
      end = at + point.length;
    }
    at += point.length;
  }
  return started ? text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)) : text.substr(0, 0);
}

}  // namespace matvlm
