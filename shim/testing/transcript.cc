#include "testing/transcript.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "base/check.h"
#include "base/fd.h"
#include "base/testing/must.h"

namespace wyvern::shim {

namespace {

void AppendHex(const std::string& digits, std::string* bytes) {
  WV_CHECK(digits.size() % 2 == 0 &&
           digits.find_first_not_of("0123456789abcdef") == std::string::npos);
  for (size_t i = 0; i < digits.size(); i += 2) {
    bytes->push_back(static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
}

void Relocate(const std::string& home, std::string* text) {
  const std::string recorded = kRecordedHome;
  WV_CHECK(home.size() == recorded.size());
  for (size_t at = text->find(recorded); at != std::string::npos;
       at = text->find(recorded, at + home.size())) {
    text->replace(at, home.size(), home);
  }
}

}  // namespace

Transcript ReadTranscript(const std::string& path, const std::string& home) {
  std::istringstream lines(Must(ReadFile(path)));
  Transcript transcript;
  std::string comment;
  for (std::string line; std::getline(lines, line);) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string key = line.substr(0, space);
    const std::string rest = line.substr(std::min(space + 1, line.size()));
    if (key == "#") {
      comment = rest;
    } else if (key == ">" || key == "<") {
      transcript.spoken.push_back({key == ">", "", comment});
      AppendHex(rest, &transcript.spoken.back().bytes);
    } else if (key.empty()) {
      WV_CHECK(!transcript.spoken.empty() && !rest.empty());
      AppendHex(rest.substr(1), &transcript.spoken.back().bytes);
    } else {
      transcript.words[key].push_back(rest);
    }
  }
  for (auto& [key, words] : transcript.words) {
    std::for_each(words.begin(), words.end(), [&](std::string& word) { Relocate(home, &word); });
  }
  for (Spoken& spoken : transcript.spoken) {
    Relocate(home, &spoken.bytes);
  }
  return transcript;
}

std::vector<std::string> TranscriptVersions(const std::string& root) {
  std::vector<std::string> versions;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (entry.is_directory()) {
      versions.push_back(entry.path().filename());
    }
  }
  std::sort(versions.begin(), versions.end());
  return versions;
}

std::vector<std::string> TranscriptFiles(const std::string& root, const std::string& version,
                                         const std::string& suffix) {
  std::vector<std::string> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(root) / version)) {
    if (entry.path().string().ends_with(suffix)) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace wyvern::shim
