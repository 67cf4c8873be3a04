// Raw deflate data and CRC-32, by zlib.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace matvlm {

// Inflates `in` into all of `out`. Error, headed by `what`, for damaged data or data of another size.
void inflate_raw(const std::string& what, std::span<const std::byte> in, std::span<std::byte> out);
uint32_t crc32_of(std::span<const std::byte> bytes);

}  // namespace matvlm
