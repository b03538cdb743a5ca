import java.net.Proxy;
import java.net.URL;
import java.net.HttpURLConnection;

// Stubborn asks for a URL and wants no proxy.
public class Stubborn {
    public static void main(String[] args) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) new URL(args[0]).openConnection(Proxy.NO_PROXY);
        connection.setRequestProperty("X-Key", System.getenv("API_KEY"));
        if (connection.getResponseCode() != 200) {
            throw new Exception("got status " + connection.getResponseCode());
        }
    }
}
