// testing/transcript.h — what a containerd and a shim were recorded to say (testing/transcripts/README.md describes the files).
#pragma once

#include <map>
#include <string>
#include <vector>

namespace wyvern::shim {

// The directory under which the recorded containerd had its state. A test has another, with a name of the same length: bytes that hold
// lengths stay right when one takes the other's place.
inline constexpr char kRecordedHome[] = "/tmp/wyvern-shim-XXXXXX";

struct Spoken {
  bool by_containerd = false;
  std::string bytes;  // a frame; in a launch's file the whole of stdin or stdout
  std::string comment;
};

struct Transcript {
  std::map<std::string, std::vector<std::string>> words;  // "argv", "env", "cwd", "init"
  std::vector<Spoken> spoken;
};

// Aborts on a file that is none. `home` takes kRecordedHome's place everywhere.
Transcript ReadTranscript(const std::string& path, const std::string& home);

// The directories <version>/ below `root`, sorted.
std::vector<std::string> TranscriptVersions(const std::string& root);
// Files of one version whose names end with `suffix`, sorted.
std::vector<std::string> TranscriptFiles(const std::string& root, const std::string& version,
                                         const std::string& suffix);

}  // namespace wyvern::shim
