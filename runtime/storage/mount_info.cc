#include "storage/mount_info.h"

#include <sstream>
#include <utility>

#include "base/fd.h"

namespace wyvern::runtime {
namespace {

constexpr size_t kMountInfoLimit = 64U << 20U;

// Space, tab, newline and backslash are written as \ooo.
std::string Unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>(((text[i + 1] - '0') << 6) | ((text[i + 2] - '0') << 3) |
                               (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

std::vector<MountInfo> ParseMountInfo(std::string_view text) {
  std::vector<MountInfo> out;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    MountInfo info;
    std::string parent;
    std::string root;
    std::string point;
    std::string word;
    words >> info.id >> parent >> info.device >> root >> point >> word;
    while (words >> word && word != "-") {  // optional fields
    }
    if (!(words >> info.type)) {
      continue;
    }
    info.root = Unescape(root);
    info.point = Unescape(point);
    out.push_back(std::move(info));
  }
  return out;
}

Result<std::vector<MountInfo>> ReadMountInfo() {
  WV_TRY(const std::string text, ReadFile("/proc/thread-self/mountinfo", kMountInfoLimit));
  return ParseMountInfo(text);
}

}  // namespace wyvern::runtime
