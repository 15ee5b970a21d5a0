#!/usr/bin/env python3
"""add_component's rules, each broken once in a project of its own: what must not configure does not. The suite style runs it."""

import pathlib
import subprocess
import tempfile
import unittest

MODULES = pathlib.Path(__file__).resolve().parent


class AddComponent(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(prefix="wyvern-component-")
        cls.addClassCleanup(directory.cleanup)
        cls.dir = pathlib.Path(directory.name)

    def configure(self, components):
        """(exit code, stderr as one line) of a project with these components; the compiler is looked at once for all."""
        (self.dir / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.25)\nproject(rules LANGUAGES CXX)\n"
            f'include("{MODULES}/wyvern_component.cmake")\n{components}\n')
        done = subprocess.run(["cmake", "-S", self.dir, "-B", self.dir / "build", "-G", "Ninja"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120, check=False)
        return done.returncode, " ".join(done.stderr.split())

    def test_a_lower_layer_is_a_dependency(self):
        code, text = self.configure("add_component(base LAYER 0)\nadd_component(middle LAYER 1.5 DEPS base)\n"
                                    "add_component(top LAYER 2 DEPS base middle)")
        self.assertEqual((code, text), (0, ""))

    def test_an_equal_or_higher_layer_is_none(self):
        for layer, above in (("1", "1"), ("1", "2"), ("1.5", "1.51"), ("7.85", "8.4"), ("9", "10")):
            code, text = self.configure(f"add_component(above LAYER {above})\nadd_component(below LAYER {layer} DEPS above)")
            self.assertNotEqual(code, 0, (layer, above))
            self.assertIn(f"component below (layer {layer}) may not depend on above (layer {above}): lower layers only", text)

    def test_what_was_not_added_before_is_no_dependency(self):
        code, text = self.configure("add_component(below LAYER 1 DEPS above)\nadd_component(above LAYER 0)")
        self.assertNotEqual(code, 0)
        self.assertIn("component below: unknown dependency above", text)

    def test_a_component_has_a_layer_and_known_words(self):
        for words in ("", "DEPS", "LAYER 1 STRANGE"):
            code, text = self.configure(f"add_component(odd {words})")
            self.assertNotEqual(code, 0, words)
            self.assertIn("add_component(odd): LAYER missing or unknown words", text)


if __name__ == "__main__":
    unittest.main()
