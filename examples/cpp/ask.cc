// Asks a model one question: ask MODEL QUESTION
#include <iostream>
#include <xhybrid.hpp>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: ask MODEL QUESTION\n";
    return 2;
  }
  try {
    xh::Runtime runtime;
    xh::Model model = runtime.load(argv[1]);
    xh::Session session = model.session();
    session.feed(model.encode(model.chat({{"user", argv[2]}}), /*add_special=*/true));
    session.generate([](const std::string& piece) { std::cout << piece << std::flush; });
    std::cout << "\n";
  } catch (const xh::Error& error) {
    std::cerr << error.origin() << ": " << error.what() << "\n";
    return 1;
  }
}
