#include "install/manifest.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <string>

#include "base/fd.h"
#include "base/testing/must.h"

namespace wyvern::cli {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class ManifestTest : public testing::Test {
 protected:
  ManifestTest() {
    std::string pattern = std::filesystem::temp_directory_path() / "wyvern-manifest-XXXXXX";
    directory_ = mkdtemp(pattern.data());
    file_ = directory_ / "install.json";
  }

  ~ManifestTest() override { std::filesystem::remove_all(directory_); }

  Result<Manifest> Read(std::string_view text) {
    Must(WriteFileAtomically(file_, text, 0644));
    return ReadManifest(file_);
  }

  static void Must(const Result<>& result) { ASSERT_TRUE(result) << result.error().message(); }

  std::filesystem::path directory_;
  std::string file_;
};

TEST_F(ManifestTest, NothingThereIsEmpty) {
  const Manifest manifest = wyvern::Must(ReadManifest(file_));
  EXPECT_THAT(manifest.placed, IsEmpty());
  EXPECT_EQ(manifest.version, "");
}

TEST_F(ManifestTest, WhatWasWrittenIsRead) {
  Manifest manifest;
  manifest.version = "1-a";
  manifest.Put({PlacedKind::kDirectory, "/usr/lib/wyvern", ""});
  manifest.Put({PlacedKind::kLink, "/usr/bin/wyvern", "old"});
  manifest.Put({PlacedKind::kLink, "/usr/bin/wyvern", "../lib"});
  manifest.Put({PlacedKind::kFile, "/etc/\"a\\b\xff", "12"});
  manifest.Put({PlacedKind::kLines, "/etc/x", "34"});
  manifest.Put({PlacedKind::kLines, "/etc/y", ""});
  manifest.Remove(PlacedKind::kLines, "/etc/y");
  Must(WriteManifest(file_, manifest));
  const Manifest again = wyvern::Must(ReadManifest(file_));
  ASSERT_EQ(again.placed.size(), 4U);
  EXPECT_EQ(again.version, "1-a");
  EXPECT_EQ(*again.Find(PlacedKind::kLink, "/usr/bin/wyvern"),
            (Placed{PlacedKind::kLink, "/usr/bin/wyvern", "../lib"}));
  EXPECT_EQ(again.Find(PlacedKind::kFile, "/usr/bin/wyvern"), nullptr);
}

TEST_F(ManifestTest, WhatIsNotOursIsRefused) {
  for (const char* text :
       {"", "{", "[]", "7", R"({"format":"1"})", R"({"format":1})", R"({"format":1,"placed":{}})",
        R"({"format":1,"placed":[3]})", R"({"format":1,"placed":[{"kind":"device","path":"/x"}]})",
        R"({"format":1,"placed":[{"kind":"file","path":"etc"}]})",
        R"({"format":1,"placed":[{"kind":"file","path":"/usr/../etc/passwd"}]})",
        R"({"format":1,"placed":[{"kind":"file","path":"/usr/.."}]})"}) {
    const auto manifest = Read(text);
    ASSERT_FALSE(manifest) << text;
    EXPECT_EQ(manifest.error().code(), Code::kDataLoss) << text;
  }
}

TEST_F(ManifestTest, ALaterFormatIsLeftToItsProgram) {
  const auto manifest = Read(R"({"format":2,"placed":[]})");
  ASSERT_FALSE(manifest);
  EXPECT_EQ(manifest.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(manifest.error().message(), HasSubstr("that one's"));
}

}  // namespace
}  // namespace wyvern::cli
