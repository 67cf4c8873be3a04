// The source tree keeps its rules: include directions between the rooms, third-party headers in no header of ours and
// in few files, CUDA headers in CUDA files, files of at most 500 lines, and a comment at the top of every header.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;
using Texts = std::map<std::string, std::string>;  // path from the root -> content

constexpr int64_t kMaxLines = 500;
constexpr size_t kMaxFilesOfLibrary = 2;

const std::map<std::string, std::set<std::string>>& allowed_rooms() {
  static const std::map<std::string, std::set<std::string>> rooms = {
      {"core", {"core"}},
      {"autograd", {"autograd", "core"}},
      {"layers", {"layers", "autograd", "core"}},
      {"distill", {"distill", "layers", "autograd", "core"}},
      {"data", {"data", "core"}},
      {"launch", {"launch", "distill", "layers", "autograd", "data", "core"}},
      {"tests", {"tests", "launch", "distill", "layers", "autograd", "data", "core"}}};
  return rooms;
}

// Beginnings of header names -> library.
const std::map<std::string, std::string>& third_party() {
  static const std::map<std::string, std::string> libraries = {
      {"mpi.h", "MPI"},         {"hdf5", "HDF5"},      {"H5", "HDF5"},        {"yaml-cpp/", "yaml-cpp"},
      {"CLI/", "CLI11"},        {"nlohmann/", "JSON"}, {"spdlog/", "spdlog"}, {"fmt/", "spdlog"},
      {"jpeglib", "libjpeg"},   {"jerror", "libjpeg"}, {"png", "libpng"},     {"ft2build", "FreeType"},
      {"freetype", "FreeType"}, {"FT_", "FreeType"},   {"hb", "HarfBuzz"},    {"harfbuzz", "HarfBuzz"},
      {"pugi", "pugixml"},      {"nccl", "NCCL"},      {"cudnn", "cuDNN"},    {"cblas", "OpenBLAS"},
      {"openblas", "OpenBLAS"}};
  return libraries;
}

struct Include {
  int64_t line = 0;
  char kind = '<';  // '<', '"', or 'M' for a macro
  std::string name;
};

std::vector<Include> includes_of(const std::string& text) {
  std::vector<Include> found;
  std::istringstream lines(text);
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    size_t at = line.find_first_not_of(" \t");
    if (at == std::string::npos || line[at] != '#') continue;
    at = line.find_first_not_of(" \t", at + 1);
    if (at == std::string::npos || line.compare(at, 7, "include") != 0) continue;
    at = line.find_first_not_of(" \t", at + 7);
    if (at == std::string::npos) continue;
    if (line[at] != '<' && line[at] != '"') {
      found.push_back({number, 'M', line.substr(at)});
      continue;
    }
    const size_t end = line.find(line[at] == '<' ? '>' : '"', at + 1);
    found.push_back({number, line[at], line.substr(at + 1, end == std::string::npos ? end : end - at - 1)});
  }
  return found;
}

std::string library_of(const std::string& header) {
  for (const auto& [beginning, library] : third_party()) {
    if (header.starts_with(beginning)) return library;
  }
  return "";
}

bool is_cuda_header(const std::string& name) {
  return name.starts_with("cuda") || name.starts_with("cublas") || name.starts_with("mma") ||
         name.starts_with("cub/") || name.starts_with("cooperative_groups");
}

bool is_cuda_file(const std::string& path) {
  const std::string name = fs::path(path).filename().string();
  return name.ends_with(".cu") || name.ends_with(".cuh") || name.ends_with("_cuda.cpp") ||
         name.ends_with("_nccl.cpp") || path.starts_with("core/cuda_");
}

bool is_header(const std::string& path) { return path.ends_with(".h") || path.ends_with(".cuh"); }

std::string room_of(const std::string& path) { return path.substr(0, path.find('/')); }

std::string quoted_violation(const std::string& path, const std::string& name, const Texts& tree) {
  if (!tree.contains(name)) return cat("includes \"", name, "\", which is no file of ours as seen from the root");
  const std::set<std::string>& allowed = allowed_rooms().at(room_of(path));
  if (!allowed.contains(room_of(name))) return cat("includes \"", name, "\": ", room_of(path), "/ may not include it");
  if (!is_cuda_file(path) && is_header(path) && is_cuda_file(name)) {
    return cat("includes \"", name, "\", which brings CUDA headers into an ordinary one");
  }
  return "";
}

std::string system_violation(const std::string& path, const std::string& name) {
  if (is_cuda_header(name)) {
    return is_cuda_file(path) ? "" : cat("includes <", name, ">: CUDA headers belong in CUDA files");
  }
  if (!is_header(path)) return "";
  // What has a dot or a slash is no header of the C++ standard library. OpenMP belongs to the compiler; tests may use
  // GoogleTest's.
  const bool standard = name.find_first_of("./") == std::string::npos || name == "omp.h";
  const bool test_library = path.starts_with("tests/") && name.starts_with("gtest/");
  if (!library_of(name).empty() || (!standard && !test_library)) {
    return cat("includes <", name, ">: a third-party or system header in a header");
  }
  return "";
}

std::vector<std::string> violations(const Texts& tree) {
  std::vector<std::string> found;
  std::map<std::string, std::set<std::string>> files_of_library;
  for (const auto& [path, text] : tree) {
    for (const Include& include : includes_of(text)) {
      const std::string bad =
          include.kind == '"' ? quoted_violation(path, include.name, tree) : system_violation(path, include.name);
      if (!bad.empty()) found.push_back(cat(path, ":", include.line, ": ", bad));
      const std::string library = include.kind == '"' ? "" : library_of(include.name);
      if (!library.empty()) files_of_library[library].insert(path);
    }
    const int64_t lines = std::count(text.begin(), text.end(), '\n');
    const bool is_table = fs::path(path).stem().string().ends_with("_table");  // generated
    if (lines > kMaxLines && !is_table)
      found.push_back(cat(path, ": found ", lines, " lines, expected at most ", kMaxLines));
    if (is_header(path) && !text.starts_with("//"))
      found.push_back(cat(path, ": found no comment at the top that says what the file is"));
  }
  for (const auto& [library, files] : files_of_library) {
    std::string list;
    for (const std::string& file : files) list += " " + file;
    if (files.size() > kMaxFilesOfLibrary) {
      found.push_back(
          cat(library, ": found it in ", files.size(), " files, expected at most ", kMaxFilesOfLibrary, ":", list));
    }
  }
  return found;
}

Texts source_tree() {
  Texts tree;
  const fs::path root = MATVLM_SOURCE_DIR;
  for (const auto& [room, allowed] : allowed_rooms()) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / room)) {
      const std::string extension = entry.path().extension().string();
      if (!entry.is_regular_file()) continue;
      if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
      tree[entry.path().lexically_relative(root).string()] = read_file(entry.path().string());
    }
  }
  return tree;
}

TEST(Includes, TheSourceTreeKeepsItsRules) {
  const Texts tree = source_tree();
  ASSERT_TRUE(tree.contains("core/error.h") && tree.contains("tests/core/test_includes.cpp")) << "found no source tree";
  for (const std::string& violation : violations(tree)) ADD_FAILURE() << violation;
}

// The checker finds what it is for.
TEST(Includes, EveryKindOfViolationIsFound) {
  const auto found = [](const std::string& path, const std::string& text) {
    Texts tree = {{"core/a.h", "// a\n"},
                  {"launch/b.h", "// b\n"},
                  {"tests/support/c.h", "// c\n"},
                  {"data/d.h", "// d\n"},
                  {"core/cuda_e.h", "// e\n"},
                  {"layers/f.h", "// f\n"},
                  {"core/mpi.cpp", "// m\n#include <mpi.h>\n"},
                  {"core/mpi_2.cpp", "// m\n# include <mpi.h>\n"}};
    tree[path] = text;
    const std::vector<std::string> list = violations(tree);
    EXPECT_LE(list.size(), 1U);
    return list.empty() ? std::string() : list.front();
  };
  EXPECT_EQ(found("layers/x.cpp", "// x\n#include <vector>\n#include \"core/a.h\"\n#include <sys/stat.h>\n"), "");
  EXPECT_EQ(found("core/x.cpp", "// x\n#include \"data/d.h\"\n"),
            "core/x.cpp:2: includes \"data/d.h\": core/ may not include it");
  EXPECT_EQ(found("data/x.h", "// x\n\n  #  include \"layers/f.h\"\n"),
            "data/x.h:3: includes \"layers/f.h\": data/ may not include it");
  EXPECT_EQ(found("distill/x.h", "// x\n#include \"launch/b.h\"\n"),
            "distill/x.h:2: includes \"launch/b.h\": distill/ may not include it");
  EXPECT_EQ(found("launch/x.cpp", "// x\n#include \"tests/support/c.h\"\n"),
            "launch/x.cpp:2: includes \"tests/support/c.h\": launch/ may not include it");
  EXPECT_EQ(found("core/x.cpp", "// x\n#include \"a.h\"\n"),
            "core/x.cpp:2: includes \"a.h\", which is no file of ours as seen from the root");
  EXPECT_EQ(found("core/x.h", "// x\n#include <nlohmann/json.hpp>\n"),
            "core/x.h:2: includes <nlohmann/json.hpp>: a third-party or system header in a header");
  EXPECT_EQ(found("core/x.h", "// x\n#include <unistd.h>\n"),
            "core/x.h:2: includes <unistd.h>: a third-party or system header in a header");
  EXPECT_EQ(found("core/x.cpp", "// x\n#include <cuda_runtime.h>\n"),
            "core/x.cpp:2: includes <cuda_runtime.h>: CUDA headers belong in CUDA files");
  EXPECT_EQ(found("core/x_cuda.cpp", "// x\n#include <cuda_runtime.h>\n"), "");
  EXPECT_EQ(found("core/x.h", "// x\n#include \"core/cuda_e.h\"\n"),
            "core/x.h:2: includes \"core/cuda_e.h\", which brings CUDA headers into an ordinary one");
  EXPECT_EQ(found("core/x.cpp", "// x\n#include <mpi.h>\n"),
            "MPI: found it in 3 files, expected at most 2: core/mpi.cpp core/mpi_2.cpp core/x.cpp");
  EXPECT_EQ(found("core/x.cpp", "// x\n" + std::string(500, '\n')),
            "core/x.cpp: found 501 lines, expected at most 500");
  EXPECT_EQ(found("core/x_table.cpp", "// x\n" + std::string(500, '\n')), "");
  EXPECT_EQ(found("core/x.h", "int x;\n"), "core/x.h: found no comment at the top that says what the file is");
}

}  // namespace
}  // namespace matvlm
