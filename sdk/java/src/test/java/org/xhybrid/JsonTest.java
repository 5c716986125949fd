package org.xhybrid;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class JsonTest {
  @Test
  void writesWhatARecipeHolds() {
    final Map<String, Object> recipe = new LinkedHashMap<>();
    recipe.put("models", List.of("a", Path.of("b", "c")));
    recipe.put("t", 0.5);
    recipe.put("steps", 3);
    recipe.put("replace", true);
    recipe.put("base", null);
    recipe.put("options", Map.of());
    recipe.put("empty", List.of());
    assertEquals(
        "{\"models\":[\"a\",\"b/c\"],\"t\":0.5,\"steps\":3,\"replace\":true,\"base\":null,\"options\":{},\"empty\":[]}",
        Json.write(recipe));
  }

  @Test
  void escapesText() {
    assertEquals("\"a\\\"b\\\\c\\u000ad\\u0000 ü 🎓\"", Json.write("a\"b\\c\nd\0 ü 🎓"));
  }

  @Test
  void refusesWhatIsNoJson() {
    assertThrows(IllegalArgumentException.class, () -> Json.write(Double.POSITIVE_INFINITY));
    assertThrows(IllegalArgumentException.class, () -> Json.write(Arrays.asList(new Object())));
  }
}
