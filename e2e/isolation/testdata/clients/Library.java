import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

// Library asks for the URL in URL with the library in the argument, with the token
// as a bearer, and prints the answer.
public class Library {
    public static void main(String[] args) throws Exception {
        URI url = new URI(System.getenv("URL"));
        String bearer = "Bearer " + System.getenv("API_KEY");
        if (args[0].equals("HttpClient")) {
            HttpRequest request = HttpRequest.newBuilder(url).header("Authorization", bearer).build();
            HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
            if (answer.statusCode() != 200) {
                throw new Exception("got status " + answer.statusCode());
            }
            System.out.print(answer.body());
            return;
        }
        HttpURLConnection connection = (HttpURLConnection) url.toURL().openConnection();
        connection.setRequestProperty("Authorization", bearer);
        System.out.print(new String(connection.getInputStream().readAllBytes()));
    }
}
