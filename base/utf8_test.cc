#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string_view>

namespace wyvern {
namespace {

using namespace std::string_view_literals;

TEST(Utf8LengthTest, CharacterOfEachLength) {
  EXPECT_EQ(Utf8Length("a\xff"), 1U);
  EXPECT_EQ(Utf8Length("\0x"sv), 1U);
  EXPECT_EQ(Utf8Length("\u00e4x"), 2U);
  EXPECT_EQ(Utf8Length("\u20acx"), 3U);
  EXPECT_EQ(Utf8Length("\U0001f409x"), 4U);
}

TEST(Utf8LengthTest, FirstAndLastOfEachLength) {
  EXPECT_EQ(Utf8Length("\xc2\x80"), 2U);
  EXPECT_EQ(Utf8Length("\xdf\xbf"), 2U);
  EXPECT_EQ(Utf8Length("\xe0\xa0\x80"), 3U);
  EXPECT_EQ(Utf8Length("\xed\x9f\xbf"), 3U);
  EXPECT_EQ(Utf8Length("\xee\x80\x80"), 3U);
  EXPECT_EQ(Utf8Length("\xef\xbf\xbf"), 3U);
  EXPECT_EQ(Utf8Length("\xf0\x90\x80\x80"), 4U);
  EXPECT_EQ(Utf8Length("\xf4\x8f\xbf\xbf"), 4U);
}

TEST(Utf8LengthTest, WhatIsNoCharacter) {
  for (const std::string_view text :
       {""sv, "\x80"sv, "\xbf"sv, "\xc0\x80"sv, "\xc1\xbf"sv, "\xe0\x9f\xbf"sv,
        "\xf0\x8f\xbf\xbf"sv, "\xed\xa0\x80"sv, "\xed\xbf\xbf"sv, "\xf4\x90\x80\x80"sv,
        "\xf5\x80\x80\x80"sv, "\xff"sv, "\xc3"sv, "\xe2\x82"sv, "\xf0\x9f\x90"sv, "\xc3("sv,
        "\xe2(\xac"sv, "\xe2\x82("sv, "\xf0\x9f\x90("sv}) {
    EXPECT_EQ(Utf8Length(text), 0U) << testing::PrintToString(text);
  }
}

TEST(ToUtf8Test, OnlyWhatIsNoCharacterChanges) {
  EXPECT_EQ(ToUtf8(""), "");
  EXPECT_EQ(ToUtf8("plain \u20ac"), "plain \u20ac");
  EXPECT_EQ(ToUtf8("a\xff\u00e4\xe2\x82"), "a?\u00e4??");
}

}  // namespace
}  // namespace wyvern
