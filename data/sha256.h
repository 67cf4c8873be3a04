// SHA-256 (FIPS 180-4): names tokenizers and finds pictures that are stored twice.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace matvlm {

// 64 lower-case hexadecimal digits.
std::string sha256(std::span<const uint8_t> bytes);
std::string sha256(std::string_view text);

}  // namespace matvlm
