// A tokenizer.json, and a text that it encodes: what stands behind the first zero byte.
#include "data/tokenizer.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace matvlm;
  const std::string_view all = fuzz::text_of(data, size);
  const std::string_view json = all.substr(0, all.find('\0'));
  const std::string_view text = json.size() < all.size() ? all.substr(json.size() + 1) : "a 12 <|x|>\n\xc3\xa9";
  fuzz::expect_error_or_result([&] {
    const Tokenizer tokenizer = Tokenizer::from_json(Json::parse(json, "tokenizer.json"));
    const std::vector<int32_t> ids = tokenizer.encode(text.substr(0, 4096));
    tokenizer.decode(ids, true);
    tokenizer.decode(ids, false);
  });
  return 0;
}
