// Encodes and decodes lines for tests/data/tokenizer_peer.py, and measures the speed of it:
//   tokenizer_main ids TOKENIZER TEXTS      one JSON string a line -> one line "[ids]\t\"decoded\"" each
//   tokenizer_main speed TOKENIZER TEXTS    MB/s of encoding all texts, best of five
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "core/error.h"
#include "core/json.h"
#include "data/tokenizer.h"

namespace matvlm {
namespace {

std::vector<std::string> read_lines(const std::string& path) {
  std::vector<std::string> out;
  std::ifstream file(path, std::ios::binary);
  check(file.good(), path, ": cannot open");
  for (std::string line; std::getline(file, line);) out.push_back(Json::parse(line, path).as_string());
  return out;
}

void print_ids(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) {
    const std::vector<int32_t> ids = tokenizer.encode(text);
    out += '[';
    for (size_t i = 0; i < ids.size(); ++i) out += (i == 0 ? "" : ",") + std::to_string(ids[i]);
    // Streamed: what is given out token by token must be the decoded text as well.
    StreamDecoder stream(tokenizer, false);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.add(id);
    streamed += stream.finish();
    check(streamed == tokenizer.decode(ids, false), "streamed and decoded texts differ: ", Json::of(text).dump());
    out += "]\t" + Json::of(streamed).dump() + "\n";
  }
  std::cout << out;
}

void print_speed(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  size_t bytes = 0;
  for (const std::string& text : texts) bytes += text.size();
  double best = 0;
  size_t tokens = 0;
  for (int i = 0; i < 5; ++i) {
    tokens = 0;
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& text : texts) tokens += tokenizer.encode(text).size();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, static_cast<double>(bytes) / seconds / 1e6);
  }
  std::printf("%.2f MB/s %zu tokens\n", best, tokens);
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  try {
    matvlm::check(argc == 4, "usage: tokenizer_main ids|speed TOKENIZER TEXTS");
    const auto tokenizer = matvlm::Tokenizer::read_file(argv[2]);
    const std::vector<std::string> texts = matvlm::read_lines(argv[3]);
    if (std::string(argv[1]) == "ids") {
      matvlm::print_ids(tokenizer, texts);
    } else {
      matvlm::print_speed(tokenizer, texts);
    }
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
