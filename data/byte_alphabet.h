// The 256 printable characters by which byte-level tokenizers write bytes in tokenizer.json (GPT-2's table: printable
// Latin-1 stands for itself, every other byte for the next character from U+0100 on).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace matvlm {

const std::string& byte_character(uint8_t byte);

std::string to_byte_characters(std::string_view bytes);

// The bytes that `token` stands for; nothing when it holds a character outside the alphabet.
std::optional<std::string> from_byte_characters(std::string_view token);

}  // namespace matvlm
