#include "config/toml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "config/toml_scanner.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

std::string Repeat(std::string_view text, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) {
    out += text;
  }
  return out;
}

std::string ParseError(std::string_view toml) {
  const auto entries = ParseToml(toml, "body");
  return entries.has_value() ? "(parsed)" : entries.error().message();
}

TEST(TomlTest, UnknownKeysNameTheLine) {
  EXPECT_THAT(ParseError("\n[sandbox]\nvcpu = 1\n"),
              HasSubstr("body:3: sandbox.vcpu: unknown key"));
  EXPECT_THAT(ParseError("SystemdCgroup = true\n"),
              HasSubstr("body:1: SystemdCgroup: unknown key"));
  EXPECT_THAT(ParseError("\n[hypervisor.qemu]\npath = '/x'\n"),
              HasSubstr("body:2: hypervisor.qemu: unknown key"));
  EXPECT_THAT(ParseError("[sandbox.vcpus.more]\n"), HasSubstr("sandbox.vcpus.more: unknown key"));
  EXPECT_THAT(ParseError("[sandbox.vcpus]\n"), HasSubstr("sandbox.vcpus: must be a value"));
  EXPECT_THAT(ParseError("sandbox = {vcpus = 1, share = {cache = {root = 1}}}"),
              HasSubstr("sandbox.share: unknown key"));
  EXPECT_THAT(ParseError("''.sandbox.vcpus = 1\n"), HasSubstr(".sandbox.vcpus: unknown key"));
  EXPECT_THAT(ParseError("'' = 1\n"), HasSubstr("body:1: : unknown key"));
}

TEST(TomlTest, WhatIsNoValueNamesTheLine) {
  EXPECT_THAT(ParseError("sandbox = 7\n"), HasSubstr("body:1: sandbox: must be a section"));
  EXPECT_THAT(ParseError("[[sandbox]]\nvcpus = 1\n"), HasSubstr("sandbox: must be a section"));
  for (const char* const value : {"1.0",
                                  "1e3",
                                  "inf",
                                  "nan",
                                  "2024-01-01",
                                  "2024-01-01 10:00:00Z",
                                  "{}",
                                  "[1]",
                                  "[['a']]",
                                  "['a', 1]",
                                  "[{}]",
                                  "10:00:00",
                                  "many",
                                  "01",
                                  "1__0",
                                  "_1",
                                  "1_",
                                  "0x",
                                  "0x-1",
                                  "--1",
                                  "+",
                                  "0b2",
                                  "9223372036854775808",
                                  "99999999999999999999",
                                  "+0x1",
                                  "True",
                                  "",
                                  "0x1_",
                                  "+_1",
                                  "1\xc2\xa0"}) {
    EXPECT_THAT(ParseError(std::string("[sandbox]\n\nvcpus = ") + value),
                HasSubstr("body:3: sandbox.vcpus: must be a string, an integer, true"))
        << value;
  }
}

TEST(TomlTest, TextThatIsNotTomlNamesTheLine) {
  for (const char* const text : {"sandbox:\n  vcpus: 2\n",
                                 "[sandbox",
                                 "[]",
                                 "[sandbox.]",
                                 "[sandbox] vcpus = 1",
                                 "= 1",
                                 "sandbox. = 1",
                                 "sandbox.vcpus",
                                 "sandbox.vcpus = 1 memory = 2",
                                 "sandbox.vcpus = 1]",
                                 "sandbox = {vcpus = 1",
                                 "sandbox = {vcpus = 1,}",
                                 "sandbox = {\nvcpus = 1}",
                                 "sandbox = {vcpus = 1 memory = 2}",
                                 "annotations.allow = ['a' 'b']",
                                 "annotations.allow = ['a'",
                                 "sandbox.kernel = '/x",
                                 "sandbox.kernel = '/x\n'",
                                 R"(sandbox.kernel = "/x\")",
                                 R"(sandbox.kernel = "\)",
                                 R"(sandbox.kernel = "\x")",
                                 R"(sandbox.kernel = "\u12")",
                                 R"(sandbox.kernel = "\u+123")",
                                 R"(sandbox.kernel = "\u-123")",
                                 R"(sandbox.kernel = "\uD800")",
                                 R"(sandbox.kernel = "\U00110000")",
                                 R"(sandbox.kernel = '''/x''')",
                                 R"(sandbox.kernel = """/x""")",
                                 R"("a\nb" = 1)"}) {
    EXPECT_THAT(ParseError(text), HasSubstr("not toml")) << text;
  }
  EXPECT_THAT(ParseError("\n\n[sandbox\n"), HasSubstr("body:3: not toml: expected ']'"));
}

TEST(TomlTest, BytesThatAreNotTextNameTheLine) {
  for (const std::string& bytes :
       {std::string("\xff"), std::string("\xc3"), std::string("\xc0\x80"),
        std::string("\xe0\x80\x80"), std::string("\xed\xa0\x80"), std::string("\xf4\x90\x80\x80"),
        std::string("\xf0\x9f\x98"), std::string("\xf5\x80\x80\x80"), std::string("\0", 1),
        std::string("\x1b"), std::string("\x7f"), std::string("\r#")}) {
    EXPECT_THAT(ParseError("\n# " + bytes), HasSubstr("body:2: not toml"));
    EXPECT_THAT(ParseError("\nsandbox.kernel = '" + bytes + "'\n"), HasSubstr("body:2: not toml"));
  }
}

TEST(TomlTest, WhatIsGivenTwiceIsError) {
  EXPECT_THAT(ParseError("\"sandbox.vcpus\" = 1\n[sandbox]\nvcpus = 2\n"),
              HasSubstr("body:3: sandbox.vcpus: given twice"));
  EXPECT_THAT(ParseError("[sandbox]\n[guest]\n[sandbox]\n"),
              HasSubstr("body:3: sandbox: given twice"));
}

TEST(TomlTest, SizeAndDepthAreBounded) {
  EXPECT_THAT(ParseError(std::string(kMaxDocumentBytes + 1, '\n')), HasSubstr("larger than"));
  EXPECT_EQ(ParseError(std::string(kMaxDocumentBytes, '\n')), "(parsed)");
  EXPECT_THAT(ParseError("sandbox.vcpus = " + std::string(60000, '[')), HasSubstr("must be"));
  EXPECT_THAT(ParseError("sandbox = " + Repeat("{sandbox=", 7000)), HasSubstr("unknown key"));
  EXPECT_THAT(ParseError(Repeat("a.", 30000) + "a = 1"), HasSubstr("a key is too long"));
  EXPECT_THAT(ParseError("[" + Repeat("a.", 30000) + "a]"), HasSubstr("a key is too long"));
  EXPECT_EQ(ParseError("TypeUrl = '" + std::string(60000, 'a') + "'"), "(parsed)");
}

TEST(TomlTest, ValuesKeepTheirTypeAndLine) {
  const auto entries = ParseToml(
      "[sandbox]\r\nvcpus = 0x2\t# two\n\n[annotations]\nallow = [ # keys\n  'a',\n\n  \"b\",\n]\n"
      "[guest]\nname = 'a\\b'\ndebug_exec = false",
      "body");
  ASSERT_TRUE(entries.has_value()) << entries.error().message();
  ASSERT_EQ(entries->size(), 4U);
  EXPECT_EQ((*entries)[0].key, "sandbox.vcpus");
  EXPECT_EQ((*entries)[0].line, 2);
  EXPECT_EQ((*entries)[0].value.type, RawType::kInteger);
  EXPECT_EQ((*entries)[0].value.text, "2");
  EXPECT_EQ((*entries)[1].value.type, RawType::kList);
  EXPECT_EQ((*entries)[1].value.items, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ((*entries)[2].line, 11);
  EXPECT_EQ((*entries)[2].value.type, RawType::kString);
  EXPECT_EQ((*entries)[2].value.text, "a\\b");
  EXPECT_EQ((*entries)[3].line, 12);
  EXPECT_EQ((*entries)[3].value.type, RawType::kBoolean);
}

TEST(TomlTest, EscapesAndIntegersAreThoseOfTheSpecification) {
  const auto entries =
      ParseToml(R"(sandbox.kernel_cmdline = "\"\\\b\t\n\f\r\u00e9\u20AC\U0001F600é")", "body");
  ASSERT_TRUE(entries.has_value()) << entries.error().message();
  EXPECT_EQ((*entries)[0].value.text, "\"\\\b\t\n\f\r\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9");
  EXPECT_EQ(TomlInteger("+1_000"), 1000);
  EXPECT_EQ(TomlInteger("-0"), 0);
  EXPECT_EQ(TomlInteger("0xdead_BEEF"), 0xdeadbeef);
  EXPECT_EQ(TomlInteger("0o755"), 0755);
  EXPECT_EQ(TomlInteger("0b101"), 5);
  EXPECT_EQ(TomlInteger("-9223372036854775808"), INT64_MIN);
}

TEST(TomlTest, EverySpellingOfASectionIsTheSame) {
  for (const char* const text :
       {"sandbox.vcpus = 2\n", "[sandbox]\nvcpus = 2\n", "sandbox = {vcpus = 2}\n",
        "'sandbox.vcpus' = 2\n", "[ 'sandbox' ]\n  \"vcpus\"=2", "sandbox . vcpus=2"}) {
    const auto entries = ParseToml(text, "body");
    ASSERT_TRUE(entries.has_value()) << text << entries.error().message();
    ASSERT_EQ(entries->size(), 1U);
    EXPECT_EQ((*entries)[0].key, "sandbox.vcpus");
  }
  EXPECT_EQ(ParseError(""), "(parsed)");
  EXPECT_EQ(ParseError("[sandbox]\n[share.cache] # none\nguest = {}"),
            "body:3: share.cache.guest: unknown key");
  EXPECT_EQ(ParseError("guest = { }\n[share.cache]\n[sandbox]"), "(parsed)");
}

TEST(TomlTest, FieldsOfTheMessageAreLeftOut) {
  const auto entries = ParseToml("TypeUrl = 'x'\nconfigPath = ''\n[sandbox]\nvcpus = 2\n", "body");
  ASSERT_TRUE(entries.has_value()) << entries.error().message();
  EXPECT_EQ(entries->size(), 1U);
  EXPECT_THAT(ParseError("TypeUrl = 1\n"), HasSubstr("TypeUrl: unknown key"));
  EXPECT_THAT(ParseError("ConfigPath = '/etc/x'\n"), HasSubstr("ConfigPath: unknown key"));
  EXPECT_THAT(ParseError("ConfigBody = 'x'\n"), HasSubstr("ConfigBody: unknown key"));
  EXPECT_THAT(ParseError("[sandbox]\nTypeUrl = 'x'\n"), HasSubstr("sandbox.TypeUrl: unknown key"));
}

}  // namespace
}  // namespace wyvern::runtime
