#include "oci/fields.h"

#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "base/fd.h"

namespace wyvern::oci {
namespace {

std::string ReadSource(const std::string& name) {
  auto text = ReadFile(std::string(WV_OCI_SOURCE_DIR) + "/" + name);
  EXPECT_TRUE(text.has_value()) << name;
  return text.value_or("");
}

// Handled: a row of its own, or inside something that is dropped or refused as a whole.
bool IsHandled(std::string path) {
  if (FindField(path) != nullptr) {
    return true;
  }
  for (size_t cut = path.find_last_of(".[{"); cut != std::string::npos;
       cut = path.find_last_of(".[{")) {
    path.resize(cut);
    const Field* field = FindField(path);
    if (field != nullptr) {
      return field->handling == Handling::kDropped || field->handling == Handling::kRefused;
    }
  }
  return false;
}

TEST(FieldsTest, EveryFieldOfTheSpecificationIsHandled) {
  std::istringstream lines(ReadSource("testing/fields.txt"));
  size_t count = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with('#')) {
      EXPECT_TRUE(IsHandled(line)) << line << " has no row in fields.cc";
      ++count;
    }
  }
  EXPECT_GT(count, 250U);
}

TEST(FieldsTest, EveryRowIsAFieldOfTheSpecification) {
  std::istringstream lines(ReadSource("testing/fields.txt"));
  std::set<std::string> known;
  for (std::string line; std::getline(lines, line);) {
    known.insert(line);
  }
  for (const Field& field : Fields()) {
    EXPECT_TRUE(known.contains(std::string(field.path))) << field.path;
  }
}

TEST(FieldsTest, DroppedAndRefusedRowsSayWhy) {
  for (const Field& field : Fields()) {
    const bool needs_reason =
        field.handling == Handling::kDropped || field.handling == Handling::kRefused;
    EXPECT_TRUE(!needs_reason || !field.note.empty()) << field.path;
  }
}

TEST(FieldsTest, MarkdownIsCurrent) {
  EXPECT_EQ(ReadSource("FIELDS.md"), FieldsMarkdown()) << "write FieldsMarkdown() to FIELDS.md";
}

TEST(FieldsTest, UnknownPathHasNoRow) {
  EXPECT_EQ(FindField("process.nothing"), nullptr);
  EXPECT_EQ(FindField(""), nullptr);
}

}  // namespace
}  // namespace wyvern::oci
