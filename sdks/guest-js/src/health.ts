/** Whether a program works, asked before it takes a call. */

/** Throws where the program does not work. It may not reach the host: no tenant is known yet. */
export type Health = () => void;

/** The export `realm:tenant/health`, whose error is a sentence and no exception around it. */
export const toHealth = (health: Health): { check(): void } => ({
  check() {
    try {
      health();
    } catch (thrown) {
      throw thrown instanceof Error ? thrown.message : String(thrown);
    }
  },
});
