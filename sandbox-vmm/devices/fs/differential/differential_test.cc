// One script on a FileServer and on a directory beside the shared one: every result, error number,
// attribute and byte must be the same.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <numeric>
#include <optional>
#include <sstream>

#include "fs/differential/fuse_target.h"
#include "fs/differential/host_target.h"
#include "fs/differential/runner.h"
#include "fs/differential/tree.h"

namespace wyvern::fs::differential {
namespace {

// The numbers of the steps that a script is made of.
using Script = std::vector<uint64_t>;

struct Difference {
  size_t position = 0;  // in the script; its size: the trees differ
  std::string text;
};

// The target under test over a directory.
struct Subject {
  std::unique_ptr<FileServer> server;
  std::unique_ptr<Target> target;
};

using MakeSubject = std::function<Subject(const std::string& directory)>;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): read only
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 0);
}

UniqueFd OpenDirectory(const std::string& path) {
  return *Open(path, O_RDONLY | O_DIRECTORY);
}

Subject MakeServer(const std::string& directory) {
  FileServerOptions options;
  options.root = OpenDirectory(directory);
  options.features.posix_locks = true;
  options.features.flock_locks = true;
  options.inodes.resident = 16;  // most inodes are opened again by their names
  Subject subject;
  subject.server = *FileServer::Create(std::move(options));
  subject.target = std::make_unique<FuseTarget>(*subject.server);
  return subject;
}

// The first line in which two descriptions of trees differ.
std::string FirstDifference(const std::string& is, const std::string& should) {
  std::istringstream a(is);
  std::istringstream b(should);
  std::string line_a;
  std::string line_b;
  for (;;) {
    const bool more_a = static_cast<bool>(std::getline(a, line_a));
    const bool more_b = static_cast<bool>(std::getline(b, line_b));
    if (!more_a && !more_b) {
      return "";
    }
    if (line_a != line_b || more_a != more_b) {
      return "  is     " + (more_a ? line_a : "-") + "\n  should " + (more_b ? line_b : "-");
    }
  }
}

class DifferentialTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) {
      GTEST_SKIP() << "needs root: the script acts for users and makes devices";
    }
    ::umask(0);
    // As in the server's own process: a user of the script has one group.
    ASSERT_EQ(::syscall(SYS_setgroups, 0, nullptr), 0);
  }

  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(base_, ignored);
  }

  void UseDirectory(const std::string& parent) {
    std::string pattern = parent + "/wyvern-fsdiff-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    base_ = pattern;
  }

  std::optional<Difference> Compare(uint64_t seed, const Script& script, const MakeSubject& make) {
    const std::string shared = base_ + "/share";
    const std::string beside = base_ + "/beside";
    for (const std::string& directory : {shared, beside}) {
      EXPECT_EQ(::mkdir(directory.c_str(), 0777), 0);
    }
    auto result = CompareIn(seed, script, make(shared), shared, beside);
    for (const std::string& directory : {shared, beside}) {
      std::filesystem::remove_all(directory);
    }
    return result;
  }

  static std::optional<Difference> CompareIn(uint64_t seed, const Script& script, Subject subject,
                                             const std::string& shared, const std::string& beside) {
    HostTarget host(OpenDirectory(beside));
    Runner under_test(*subject.target);
    Runner reference(host);
    for (size_t i = 0; i < script.size(); ++i) {
      const Step step = MakeStep(seed, script[i]);
      const std::string is = under_test.Run(step);
      const std::string should = reference.Run(step);
      if (is != should) {
        return Difference{i, fmt::format("  is     {}\n  should {}", is, should)};
      }
    }
    under_test.CloseAll();
    reference.CloseAll();
    // What the host sees, and then what the guest sees.
    HostTarget look(OpenDirectory(shared));
    std::string text = FirstDifference(DescribeTree(look), DescribeTree(host));
    if (text.empty()) {
      text = FirstDifference(DescribeTree(*subject.target), DescribeTree(host));
    }
    return text.empty() ? std::nullopt : std::optional(Difference{script.size(), std::move(text)});
  }

  // Takes away what the difference does not need, as far as that is done in time.
  Script Shrink(uint64_t seed, Script script, const MakeSubject& make) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    for (size_t chunk = script.size() / 2; chunk > 0; chunk /= 2) {
      for (size_t at = 0; at < script.size() && std::chrono::steady_clock::now() < end;) {
        Script shorter = script;
        const auto first = shorter.begin() + static_cast<std::ptrdiff_t>(at);
        shorter.erase(first,
                      first + static_cast<std::ptrdiff_t>(std::min(chunk, shorter.size() - at)));
        if (const auto difference = Compare(seed, shorter, make); difference) {
          shorter.resize(std::min(shorter.size(), difference->position + 1));
          script = std::move(shorter);
        } else {
          at += chunk;
        }
      }
    }
    return script;
  }

  std::string Explain(uint64_t seed, Script script, const Difference& difference,
                      const MakeSubject& make) {
    script.resize(std::min(script.size(), difference.position + 1));
    std::string out = "seed " + std::to_string(seed) + " differs within its first " +
                      std::to_string(script.size()) + " steps:\n" + difference.text +
                      "\nThe steps it needs:\n";
    for (const uint64_t number : Shrink(seed, std::move(script), make)) {
      out += "  " + std::to_string(number) + " " + Describe(MakeStep(seed, number)) + "\n";
    }
    return out;
  }

  void ExpectNoDifference(uint64_t seed, size_t steps) {
    Script script(steps);
    std::iota(script.begin(), script.end(), 0);
    if (const auto difference = Compare(seed, script, MakeServer); difference) {
      ADD_FAILURE() << Explain(seed, script, *difference, MakeServer);
    }
  }

  std::string base_;
};

// WYVERN_FSDIFF_STEPS, WYVERN_FSDIFF_SEED and WYVERN_FSDIFF_DIR: another script, elsewhere.
TEST_F(DifferentialTest, ServerBehavesLikeTheDirectory) {
  const char* parent =
      std::getenv("WYVERN_FSDIFF_DIR");  // NOLINT(concurrency-mt-unsafe): read only
  ASSERT_NO_FATAL_FAILURE(
      UseDirectory(parent == nullptr ? std::filesystem::temp_directory_path().string() : parent));
  ExpectNoDifference(FromEnvironment("WYVERN_FSDIFF_SEED", 1),
                     FromEnvironment("WYVERN_FSDIFF_STEPS", 3000));
}

TEST_F(DifferentialTest, ServerBehavesLikeATmpfs) {
  if (::access("/dev/shm", W_OK) != 0) {
    GTEST_SKIP() << "no /dev/shm here";
  }
  ASSERT_NO_FATAL_FAILURE(UseDirectory("/dev/shm"));
  for (const uint64_t seed : {2U, 3U, 4U}) {
    ExpectNoDifference(seed, 1500);
  }
}

// Of the names together: every byte but NUL and the slash.
TEST(ScriptTest, NamesHaveEveryByte) {
  std::array<bool, 256> seen{};
  for (uint64_t i = 0; i < 20'000; ++i) {
    for (const std::string& name : MakeStep(1, i).path) {
      ASSERT_EQ(name.find('\0'), std::string::npos);
      ASSERT_EQ(name.find('/'), std::string::npos);
      for (const char c : name) {
        seen[static_cast<unsigned char>(c)] = true;
      }
    }
  }
  EXPECT_EQ(std::ranges::count(seen, true), 254);
}

TEST(ScriptTest, PrefixIsAScript) {
  const auto whole = MakeScript(7, 50);
  for (uint64_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(Describe(whole[i]), Describe(MakeStep(7, i)));
  }
}

// A target with a fault that only a certain order of steps shows.
class ForgetfulTarget final : public HostTarget {
 public:
  using HostTarget::HostTarget;

  int ChangeMode(const NodeRef& node, uint32_t mode) override {
    return HostTarget::ChangeMode(node, node->type == S_IFDIR ? mode : mode & 0777U);
  }
};

TEST_F(DifferentialTest, FaultIsFoundAndTheScriptMadeShort) {
  ASSERT_NO_FATAL_FAILURE(UseDirectory(std::filesystem::temp_directory_path().string()));
  const MakeSubject make = [](const std::string& directory) {
    Subject subject;
    subject.target = std::make_unique<ForgetfulTarget>(OpenDirectory(directory));
    return subject;
  };
  Script script(2000);
  std::iota(script.begin(), script.end(), 0);
  const auto difference = Compare(1, script, make);
  ASSERT_TRUE(difference.has_value());
  script.resize(std::min(script.size(), difference.value_or(Difference{}).position + 1));
  EXPECT_LE(Shrink(1, script, make).size(), 6U);
}

}  // namespace
}  // namespace wyvern::fs::differential
