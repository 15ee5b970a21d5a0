#include "agent/volume_request.h"

#include <gmock/gmock.h>

#include <functional>
#include <string>

namespace wyvern::agent {
namespace {

using testing::ElementsAre;
using testing::StartsWith;

v1::SetVolumeFilesRequest Files() {
  v1::SetVolumeFilesRequest request;
  request.set_name("f0");
  request.set_version("..2026_01_02_03_04_05.123");
  return request;
}

v1::VolumeFile* AddFile(v1::SetVolumeFilesRequest& request, const std::string& path,
                        const std::string& content) {
  v1::VolumeFile* const file = request.add_file();
  file->set_path(path);
  file->mutable_owner()->set_mode(0644);
  file->set_content(content);
  return file;
}

void AddDirectory(v1::SetVolumeFilesRequest& request, const std::string& path) {
  v1::VolumeFile* const file = request.add_file();
  file->set_path(path);
  file->mutable_directory();
}

std::string WhyNot(const v1::SetVolumeFilesRequest& request) {
  const auto parsed = ParseVolumeFiles(request);
  if (parsed.has_value()) {
    return "";
  }
  EXPECT_EQ(parsed.error().code(), Code::kInvalidArgument);
  return parsed.error().message();
}

TEST(VolumeFilesRequestTest, FilesAndDirectoriesAreKeptInOrder) {
  auto request = Files();
  AddFile(request, "a", "1")->mutable_owner()->set_gid(7);
  AddDirectory(request, "d");
  AddFile(request, "d/b", std::string("\0x", 2));
  const auto parsed = ParseVolumeFiles(request);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message();
  ASSERT_EQ(parsed->entries.size(), 3U);
  EXPECT_EQ(parsed->entries[0].owner.gid, 7U);
  EXPECT_TRUE(parsed->entries[1].directory);
  EXPECT_EQ(parsed->entries[2].content, std::string("\0x", 2));
  EXPECT_THAT(parsed->tops, ElementsAre("a", "d"));
}

TEST(VolumeFilesRequestTest, NoFilesAreAVolumeToo) {
  EXPECT_EQ(WhyNot(Files()), "");
}

TEST(VolumeFilesRequestTest, PathsThatLeaveTheVolumeOrCoverItsLinksAreRefused) {
  const std::string nul("a\0b", 3);
  for (const std::string& path :
       {std::string(), std::string("/a"), std::string("../a"), std::string("a/../b"),
        std::string("."), std::string("a//b"), std::string("a/"), std::string("..data"),
        std::string("..x"), nul, std::string(256, 'n'), std::string(5000, 'n')}) {
    auto request = Files();
    AddFile(request, path, "");
    EXPECT_THAT(WhyNot(request), StartsWith("file[0].path: ")) << path;
  }
}

TEST(VolumeFilesRequestTest, DirectoriesComeFirstAndNothingIsThereTwice) {
  auto orphan = Files();
  AddFile(orphan, "d/b", "");
  EXPECT_THAT(WhyNot(orphan), StartsWith("file[0].path: its directory"));
  auto below_file = Files();
  AddFile(below_file, "d", "");
  AddFile(below_file, "d/b", "");
  EXPECT_THAT(WhyNot(below_file), StartsWith("file[1].path: its directory"));
  auto twice = Files();
  AddDirectory(twice, "d");
  AddFile(twice, "d", "");
  EXPECT_THAT(WhyNot(twice), StartsWith("file[1].path: is there twice"));
}

TEST(VolumeFilesRequestTest, BoundsAreKept) {
  auto large = Files();
  AddFile(large, "a", std::string(kMaxVolumeBytes, 'x'));
  EXPECT_EQ(WhyNot(large), "");
  AddFile(large, "b", "y");
  EXPECT_THAT(WhyNot(large), StartsWith("file[1].content: "));
  auto many = Files();
  for (int i = 0; i <= kMaxVolumeFiles; ++i) {
    AddFile(many, "f" + std::to_string(i), "");
  }
  EXPECT_THAT(WhyNot(many), StartsWith("file: "));
  auto deep = Files();
  std::string path = "d";
  for (size_t i = 0; i < kMaxVolumeDepth; ++i) {
    AddDirectory(deep, path);
    path += "/d";
  }
  EXPECT_EQ(WhyNot(deep), "");
  AddDirectory(deep, path);
  EXPECT_THAT(WhyNot(deep), StartsWith("file[16].path: "));
}

TEST(VolumeFilesRequestTest, VersionsAreHiddenNames) {
  for (const char* version : {"", "v1", "..", "..data", "../x", "..a/b"}) {
    auto request = Files();
    request.set_version(version);
    EXPECT_THAT(WhyNot(request), StartsWith("version: ")) << version;
  }
}

TEST(VolumeFilesRequestTest, OwnersAreNumbersThatExist) {
  auto mode = Files();
  AddFile(mode, "a", "")->mutable_owner()->set_mode(010000);
  EXPECT_THAT(WhyNot(mode), StartsWith("file[0].owner.mode: "));
  auto nobody = Files();
  nobody.mutable_owner()->set_uid(UINT32_MAX);  // chown(2): leave it
  EXPECT_THAT(WhyNot(nobody), StartsWith("owner: "));
}

TEST(VolumeRequestTest, EachKindHasItsBounds) {
  v1::AddVolumeRequest request;
  request.set_name("e0");
  const auto why_not = [&]() -> std::string {
    const auto parsed = ParseVolume(request);
    return parsed.has_value() ? "" : parsed.error().message();
  };
  EXPECT_THAT(why_not(), StartsWith("what: "));
  request.mutable_memory()->set_bytes(1);
  EXPECT_EQ(why_not(), "");
  request.mutable_huge_pages()->set_page_bytes(3U << 20);
  EXPECT_THAT(why_not(), StartsWith("huge_pages.page_bytes: "));
  request.mutable_huge_pages()->set_page_bytes(2U << 20);
  EXPECT_EQ(why_not(), "");
  request.mutable_part()->set_of("../e1");
  EXPECT_THAT(why_not(), StartsWith("part.of: "));
  request.mutable_part()->set_of("e1");
  EXPECT_THAT(why_not(), StartsWith("part.path: "));
  request.mutable_part()->set_path("a/../../b");
  EXPECT_THAT(why_not(), StartsWith("part.path: "));
  request.mutable_part()->set_path("a/b");
  EXPECT_EQ(why_not(), "");
  for (const std::string& name : {std::string(), std::string("a/b"), std::string("A"),
                                  std::string(".."), std::string(64, 'a')}) {
    request.set_name(name);
    EXPECT_THAT(why_not(), StartsWith("name: ")) << name;
  }
}

}  // namespace
}  // namespace wyvern::agent
